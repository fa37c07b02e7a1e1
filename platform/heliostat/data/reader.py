"""Read rows of a prepared copy, encoded: in order, or as the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from heliostat.data.encode import BoundEncoder, Encoder, Inputs, TargetTransform
from heliostat.data.order import EpochOrder
from heliostat.data.pack import Packed
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem

READ_AHEAD_ROWS = 65_536
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
            self.inputs.take(places), self.target[places], self.rows[places], self.weights[places]
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

    def encoded(self, rows: Rows, names: Rows) -> EncodedRows:
        """All of `rows` that a network takes; `names` are what the rows are called."""
        weights = self.weights(rows).astype(np.float32)
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
        return lambda rows: numbers[rows]
    category = shard.categories[target.name]
    index: dict[str | None, int] = {name: code for code, name in enumerate(target.classes)}
    table = np.array([index.get(value, -1) for value in category.values], np.int64)
    return lambda rows: table[category.codes[rows]]


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

    def __call__(self, first_batch: int) -> Iterator[Batch]:
        """Batches from number `first_batch` of the run on, epoch after epoch, without end."""
        epoch, start = divmod(first_batch, self.batches_per_epoch)
        while True:
            yield from self._epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        order = EpochOrder(len(self.rows), self.seed, epoch)
        ahead = max(1, READ_AHEAD_ROWS // self.batch_size)
        for start in range(first, self.batches_per_epoch, ahead):
            yield from self._read(order, start, min(start + ahead, self.batches_per_epoch))

    def _read(self, order: EpochOrder, first: int, stop: int) -> Iterator[Batch]:
        """Read several batches at once: rows in the order they are stored in, which is fast,
        and then each batch's rows from those.
        """
        begin, end = first * self.batch_size, min(stop * self.batch_size, order.num_rows)
        starts = range(0, end - begin, self.batch_size)
        sizes = [min(self.batch_size, end - begin - start) for start in starts]
        slices = [rank_slice(size, self.rank, self.world_size) for size in sizes]
        wanted = [
            np.arange(start + own.start, start + own.stop)
            for start, own in zip(starts, slices, strict=True)
        ]
        rows, places = self._stored_order(order, begin, end, np.concatenate(wanted))
        read = self.reader.encoded(rows, rows)
        totals = self._total_weights(order, begin, sizes)
        at = 0
        for size, total, own in zip(sizes, totals, slices, strict=True):
            mine = places[at : at + own.stop - own.start]
            yield Batch(read.take(mine), size, total)
            at += own.stop - own.start

    def _stored_order(
        self, order: EpochOrder, begin: int, end: int, wanted: Rows
    ) -> tuple[Rows, Rows]:
        """The rows at the `wanted` places of [begin, end) as chunks hold them, and where among
        those each wanted one is.
        """
        rows, places = np.empty(len(wanted), np.int64), np.empty(len(wanted), np.int64)
        base = at = 0
        for window, shuffled in order.pieces(begin, end):
            stop = int(np.searchsorted(wanted, base + len(shuffled)))
            chosen = shuffled[wanted[at:stop] - base]
            stored = np.argsort(chosen, kind="stable")
            rows[at:stop] = self.rows[window[chosen[stored]]]
            places[at:stop][stored] = np.arange(at, stop)
            base, at = base + len(shuffled), stop
        return rows, places

    def _total_weights(self, order: EpochOrder, begin: int, sizes: list[int]) -> list[float]:
        """The weight of each whole batch: the same number on every rank."""
        if not self.reader.is_weighted:
            return [float(size) for size in sizes]
        positions = order.positions(begin, begin + sum(sizes))
        weights = self.reader.weights(self.rows[positions])
        starts = np.cumsum([0, *sizes[:-1]])
        return [float(total) for total in np.add.reduceat(weights, starts)]


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The `rank`-th of `world_size` contiguous slices of `count` things."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)
