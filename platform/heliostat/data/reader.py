"""Read rows of a prepared copy, encoded: in order, or as the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.encode import BoundEncoder, Encoder, Inputs
from heliostat.data.order import EpochOrder
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem

READ_AHEAD_ROWS = 65_536
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch.

    `target` is a class code (int64) or a scaled number (float32); `rows` names each row for
    stateless randomness; `global_rows` and `global_weight` are those of the whole batch, over
    all ranks.
    """

    inputs: Inputs
    target: npt.NDArray[Any]
    rows: Rows
    weights: npt.NDArray[np.float32]
    global_rows: int
    global_weight: float


class RowReader:
    """Encoded rows and targets of a prepared copy, by row number."""

    def __init__(self, prepared: Prepared, encoder: Encoder) -> None:
        self.prepared, self.encoder = prepared, encoder
        self._bound = [BoundEncoder(encoder, shard) for shard in prepared.shards]
        self._targets = _target_column(prepared, encoder)
        self._weights = _weight_column(prepared, encoder, self._targets)

    @property
    def is_weighted(self) -> bool:
        """Whether rows count differently."""
        return self._weights is not None

    def inputs(self, rows: Rows) -> Inputs:
        """Encoded inputs of `rows`, in their order; fast where long runs of them ascend."""
        whole = Inputs.empty(len(rows), self.encoder)
        falls = np.flatnonzero(np.diff(rows) < 0) + 1
        for start, stop in zip([0, *falls], [*falls, len(rows)], strict=True):
            self._read_run(rows[start:stop], whole.slice(start, stop))
        return whole

    def _read_run(self, rows: Rows, into: Inputs) -> None:
        """Ascending rows lie in shards one after the other."""
        if len(rows) == 0:
            return
        offsets = self.prepared.offsets
        first, last = np.searchsorted(offsets, rows[[0, -1]], "right") - 1
        ends = np.searchsorted(rows, offsets[first + 1 : last + 2])
        start = 0
        for shard, end in zip(range(first, last + 1), ends.tolist(), strict=True):
            if end > start:
                local = rows[start:end] - offsets[shard]
                self._bound[shard].read(local, into.slice(start, end))
            start = end

    def targets(self, rows: Rows) -> npt.NDArray[Any]:
        """Class codes (int64), or numbers (float64) as they stand in the source."""
        return self._targets[rows]

    def weights(self, rows: Rows) -> npt.NDArray[np.float64]:
        """How much each row counts."""
        return np.ones(len(rows)) if self._weights is None else self._weights[rows]

    def scaled_targets(self, rows: Rows) -> npt.NDArray[Any]:
        """What a network learns: class codes, or numbers scaled to unit deviation."""
        target = self.encoder.target
        values = self._targets[rows]
        if target.classes:
            return values
        return ((values - target.offset) / target.scale).astype(np.float32)


def _target_column(prepared: Prepared, encoder: Encoder) -> npt.NDArray[Any]:
    target = encoder.target
    if not target.classes:
        return prepared.exact(target.name)
    codes, values = prepared.codes(target.name)
    index = {name: code for code, name in enumerate(target.classes)}
    table = np.array([index.get(value, -1) for value in values] + [-1], np.int64)
    return table[codes]


def _weight_column(
    prepared: Prepared, encoder: Encoder, targets: npt.NDArray[Any]
) -> npt.NDArray[np.float64] | None:
    target = encoder.target
    weights = None if target.weight is None else prepared.exact(target.weight)
    if target.class_weights:
        of_class = np.array([*target.class_weights, 1.0])[targets]  # the last: no class, code -1
        weights = of_class if weights is None else weights * of_class
    return weights


def check_classes(reader: RowReader, rows: Rows, side: str) -> None:
    """Every class of a side must be among the training rows' classes."""
    if reader.encoder.target.classes and (reader.targets(rows) < 0).any():
        name = reader.encoder.target.name
        raise DataError(
            Problem(
                "data.target",
                f"the {side} rows hold a class of `{name}` that no training row has",
                "split with `method: stratified`, or drop the rare classes",
            )
        )


class EpochBatches:
    """The batches of training, for one rank of `world_size`.

    Global batch s of an epoch is exactly positions [sB, min((s+1)B, n)) of its order; rank r
    takes the r-th contiguous slice, possibly empty. So every world size sees the same batches.
    """

    def __init__(
        self, reader: RowReader, rows: Rows, batch_size: int, seed: int, rank: int, world_size: int
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
        inputs, targets = self.reader.inputs(rows), self.reader.scaled_targets(rows)
        weights = self.reader.weights(rows).astype(np.float32)
        totals = self._total_weights(order, begin, sizes)
        at = 0
        for size, total, own in zip(sizes, totals, slices, strict=True):
            mine = places[at : at + own.stop - own.start]
            yield Batch(inputs.take(mine), targets[mine], rows[mine], weights[mine], size, total)
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
