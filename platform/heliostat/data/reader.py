"""Read rows of a prepared copy, encoded: in order, or as the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from heliostat.data.encode import BoundEncoder, Encoder, Inputs, TargetTransform
from heliostat.data.order import EpochOrder, Shuffled
from heliostat.data.pack import Packed
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem

ROWS_AT_ONCE = 8_192
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedRows:
    """Rows as a network takes them. `target` is a class code (int64) or a scaled number (float32);
    `rows` names each row for stateless randomness.
    """

    inputs: Inputs
    target: npt.NDArray[Any]
    rows: Rows
    weights: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[EncodedRows]) -> EncodedRows:
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return EncodedRows(
            Inputs(
                np.concatenate([part.inputs.numbers for part in parts]),
                np.concatenate([part.inputs.categories for part in parts]),
            ),
            np.concatenate([part.target for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

    def take(self, places: Rows) -> EncodedRows:
        """Copies of some rows, in their order."""
        return EncodedRows(
            self.inputs.take(places),
            self.target.take(places, axis=0),
            self.rows.take(places, axis=0),
            self.weights.take(places, axis=0),
        )

    def slice(self, start: int, stop: int) -> EncodedRows:
        """A view of consecutive rows."""
        return EncodedRows(
            self.inputs.slice(start, stop),
            self.target[start:stop],
            self.rows[start:stop],
            self.weights[start:stop],
        )


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch; `global_rows` and `global_weight` are those of the whole
    batch, over all ranks.
    """

    own: EncodedRows
    global_rows: int
    global_weight: float


class Batches(Protocol):
    """Where training takes its batches from."""

    def __call__(self, first_batch: int) -> Iterator[Batch]:
        """One rank's batches, from number `first_batch` of the run on."""


class Reader(Protocol):
    """Where batches take their rows from, by number."""

    @property
    def is_weighted(self) -> bool:
        """Whether rows count differently."""

    @property
    def runs_own_code(self) -> bool:
        """Whether it calls classes of the user's own, which may know of one thread only."""

    def encoded(self, rows: Rows, names: Rows) -> EncodedRows:
        """All of `rows` that a network takes; `names` are what the rows are called."""

    def weights(self, rows: Rows) -> npt.NDArray[np.float64]:
        """How much each row counts."""


class RowReader:
    """Encoded rows and targets of a prepared copy, by row number."""

    def __init__(self, prepared: Prepared, encoder: Encoder) -> None:
        self.prepared, self.encoder = prepared, encoder
        self._bound = [BoundEncoder(encoder, shard) for shard in prepared.shards]

    @cached_property
    def _targets(self) -> list[Callable[[Rows], npt.NDArray[Any]]]:
        return [_target_of(self.encoder.target, shard) for shard in self.prepared.shards]

    @property
    def is_weighted(self) -> bool:
        """Whether rows count differently."""
        target = self.encoder.target
        return target.weight is not None or bool(target.class_weights)

    @property
    def runs_own_code(self) -> bool:
        """Whether it calls classes of the user's own."""
        return bool(self.encoder.customs)

    def encoded(self, rows: Rows, names: Rows) -> EncodedRows:
        """All of `rows` that a network takes; `names` are what the rows are called."""
        weights = (
            self.weights(rows).astype(np.float32)
            if self.is_weighted
            else np.ones(len(rows), np.float32)
        )
        return EncodedRows(self.inputs(rows), self.scaled_targets(rows), names, weights)

    def inputs(self, rows: Rows) -> Inputs:
        """Encoded inputs of `rows`, in their order; fast where long runs of them ascend."""
        whole = Inputs.empty(len(rows), self.encoder)
        for shard, local, place in self._runs(rows):
            self._bound[shard].read(local, whole.slice(place.start, place.stop))
        return whole

    def targets(self, rows: Rows) -> npt.NDArray[Any]:
        """Class codes (int64), or numbers (float64) as they stand in the source."""
        values = np.empty(len(rows), np.int64 if self.encoder.target.classes else np.float64)
        for shard, local, place in self._runs(rows):
            values[place] = self._targets[shard](local)
        return values

    def weights(self, rows: Rows) -> npt.NDArray[np.float64]:
        """How much each row counts."""
        target = self.encoder.target
        weights = np.ones(len(rows))
        if target.weight is not None:
            for shard, local, place in self._runs(rows):
                weights[place] = self.prepared.shards[shard].exact[target.weight][local]
        if target.class_weights:  # the last is for a row of no class, code -1
            weights *= np.array([*target.class_weights, 1.0])[self.targets(rows)]
        return weights

    def _runs(self, rows: Rows) -> Iterator[tuple[int, Rows, slice]]:
        """(shard, rows in it, place in `rows`) of every ascending run within one shard."""
        offsets = self.prepared.offsets
        falls = np.flatnonzero(np.diff(rows) < 0) + 1
        for begin, stop in zip([0, *falls.tolist()], [*falls.tolist(), len(rows)], strict=True):
            run = rows[begin:stop]
            if len(run) == 0:
                continue
            first, last = np.searchsorted(offsets, run[[0, -1]], "right") - 1
            ends = np.searchsorted(run, offsets[first + 1 : last + 2]).tolist()
            start = 0
            for shard, end in zip(range(first, last + 1), ends, strict=True):
                if end > start:
                    yield shard, run[start:end] - offsets[shard], slice(begin + start, begin + end)
                start = end

    def scaled_targets(self, rows: Rows) -> npt.NDArray[Any]:
        """What a network learns: class codes, or numbers scaled to unit deviation."""
        target = self.encoder.target
        values = self.targets(rows)
        if target.classes:
            return values
        return ((values - target.offset) / target.scale).astype(np.float32)


def _target_of(target: TargetTransform, shard: Packed) -> Callable[[Rows], npt.NDArray[Any]]:
    """The targets of rows of a shard; a class that training has not is -1."""
    if not target.classes:
        numbers = shard.exact[target.name]
        return lambda rows: numbers.take(rows)
    category = shard.categories[target.name]
    index: dict[str | None, int] = {name: code for code, name in enumerate(target.classes)}
    table = np.array([index.get(value, -1) for value in category.values], np.int64)
    return lambda rows: table.take(category.codes.take(rows))


def check_classes(reader: RowReader, rows: Rows, side: str) -> None:
    """Every class of a side must be among the training rows' classes."""
    if reader.encoder.target.classes and (unseen := int((reader.targets(rows) < 0).sum())):
        name = reader.encoder.target.name
        raise DataError(
            Problem(
                "data.target",
                f"{unseen:,} {side} rows hold a class of `{name}` that no training row has",
                "split with `method: stratified`, or drop the rare classes",
            )
        )


class EpochBatches:
    """The batches of training, for one rank of `world_size`.

    Global batch s of an epoch is exactly positions [sB, min((s+1)B, n)) of its order; rank r
    takes the r-th contiguous slice, possibly empty. So every world size sees the same batches.
    """

    def __init__(
        self, reader: Reader, rows: Rows, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        self.reader, self.rows, self.batch_size = reader, np.asarray(rows), batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.batches_per_epoch = -(-len(rows) // batch_size)
        self._is_ahead = not reader.runs_own_code

    def __call__(self, first_batch: int) -> Iterator[Batch]:
        """Batches from number `first_batch` of the run on, epoch after epoch, without end."""
        epoch, start = divmod(first_batch, self.batches_per_epoch)
        with ThreadPoolExecutor(1, "read-ahead") as pool:
            while True:
                order = EpochOrder(len(self.rows), self.seed, epoch)
                windows = self._windows(order, start * self.batch_size)
                yield from self._batches(_ahead(pool, windows) if self._is_ahead else windows)
                epoch, start = epoch + 1, 0

    def _windows(self, order: EpochOrder, at: int) -> Iterator[_Window]:
        """The windows of an epoch from position `at` on. Rows are read in the order they are stored
        in, which is fast.
        """
        for window, shuffled in order.pieces(at, order.num_rows):
            stop = at + len(shuffled)
            cuts = self._cuts(at, stop)
            read, places = self._read(window, shuffled, cuts)
            weights = None
            if self.reader.is_weighted:
                weights = self.reader.weights(self.rows[window])[shuffled]
            yield _Window(at, cuts, read, places, weights)
            at = stop

    def _batches(self, windows: Iterable[_Window]) -> Iterator[Batch]:
        """The batches of windows; one may go on in the next window."""
        parts: list[EncodedRows] = []
        total = 0.0
        for window in windows:
            for own, cut in window.own():
                parts.append(own)
                total += window.weight(cut)
                if cut.is_last:
                    yield Batch(EncodedRows.joined(parts), cut.batch_rows, total)
                    parts, total = [], 0.0

    def _cuts(self, start: int, stop: int) -> list[_Cut]:
        """What positions [start, stop) of the epoch have of each batch."""
        cuts = []
        for first in range(start - start % self.batch_size, stop, self.batch_size):
            last = min(first + self.batch_size, len(self.rows))
            mine = rank_slice(last - first, self.rank, self.world_size)
            begin = min(max(first + mine.start, start), stop)
            end = max(min(first + mine.stop, stop), begin)
            cuts.append(
                _Cut(
                    begin - start, end - start, max(first, start), min(last, stop), last - first,
                    last <= stop,
                )
            )  # fmt: skip
        return cuts

    def _read(
        self, window: Rows, shuffled: Shuffled, cuts: Sequence[_Cut]
    ) -> tuple[EncodedRows, Rows]:
        """This rank's rows of a window, as they are stored, and the place of each among them."""
        chosen = np.concatenate([shuffled[cut.own_start : cut.own_stop] for cut in cuts])
        if len(chosen) == len(window):
            rows = self.rows.take(window)
            return self.reader.encoded(rows, rows), chosen.astype(np.int64)
        is_chosen = np.zeros(len(window), bool)
        is_chosen[chosen] = True
        rows = self.rows[window[is_chosen]]
        return self.reader.encoded(rows, rows), (np.cumsum(is_chosen) - 1)[chosen]


class _Cut(NamedTuple):
    """What a window has of a batch of `batch_rows` rows: places of this rank's rows in the window,
    positions in the epoch of all ranks' rows, and whether the batch ends here.
    """

    own_start: int
    own_stop: int
    start: int
    stop: int
    batch_rows: int
    is_last: bool

    @property
    def num_own(self) -> int:
        """Rows of this rank."""
        return self.own_stop - self.own_start


@dataclass(frozen=True)
class _Window:
    """What a window has of batches: this rank's rows as they are stored, the place of each among
    them, and the weights of all ranks' rows (None: all count the same), from position `start` on.
    """

    start: int
    cuts: Sequence[_Cut]
    read: EncodedRows
    places: Rows
    weights: npt.NDArray[np.float64] | None

    def own(self) -> Iterator[tuple[EncodedRows, _Cut]]:
        """This rank's rows of each cut. Those of small batches are taken several at a time."""
        first = 0
        for run in _runs_of(self.cuts, ROWS_AT_ONCE):
            stop = first + sum(cut.num_own for cut in run)
            taken, at = self.read.take(self.places[first:stop]), 0
            for cut in run:
                yield taken.slice(at, at + cut.num_own), cut
                at += cut.num_own
            first = stop

    def weight(self, cut: _Cut) -> float:
        """What all ranks' rows of a cut weigh."""
        if self.weights is None:
            return float(cut.stop - cut.start)
        return float(self.weights[cut.start - self.start : cut.stop - self.start].sum())


def _ahead(pool: Executor, windows: Iterator[_Window]) -> Iterator[_Window]:
    """The windows, each read while the one before it is in use."""
    coming = pool.submit(next, windows, None)
    while (window := coming.result()) is not None:
        coming = pool.submit(next, windows, None)
        yield window


def _runs_of(cuts: Sequence[_Cut], most_rows: int) -> Iterator[list[_Cut]]:
    """Runs of at most so many rows, but at least one cut."""
    run: list[_Cut] = []
    rows = 0
    for cut in cuts:
        if run and rows + cut.num_own > most_rows:
            yield run
            run, rows = [], 0
        run.append(cut)
        rows += cut.num_own
    yield run


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The `rank`-th of `world_size` contiguous slices of `count` things."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)
