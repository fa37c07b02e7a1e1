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
        """Encoded inputs of `rows`, in their order."""
        shards = np.searchsorted(self.prepared.offsets, rows, "right") - 1
        touched = np.unique(shards)
        if len(touched) == 1:
            return self._bound[touched[0]].inputs(rows - self.prepared.offsets[touched[0]])
        numbers = np.empty((len(rows), self.encoder.num_numbers), np.float32)
        categories = np.empty((len(rows), len(self.encoder.categories)), np.int32)
        for shard in touched:
            here = np.flatnonzero(shards == shard)
            part = self._bound[shard].inputs(rows[here] - self.prepared.offsets[shard])
            numbers[here], categories[here] = part.numbers, part.categories
        return Inputs(numbers, categories)

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
        """Read several batches in one gather; each is then a view of it."""
        begin = first * self.batch_size
        positions = order.positions(begin, min(stop * self.batch_size, order.num_rows))
        sizes = [
            len(positions[i : i + self.batch_size])
            for i in range(0, len(positions), self.batch_size)
        ]
        slices = [rank_slice(size, self.rank, self.world_size) for size in sizes]
        places = np.concatenate(
            [
                positions[i * self.batch_size + s.start : i * self.batch_size + s.stop]
                for i, s in enumerate(slices)
            ]
        )
        rows = self.rows[places]
        inputs, targets = self.reader.inputs(rows), self.reader.scaled_targets(rows)
        weights = self.reader.weights(rows).astype(np.float32)
        totals = self._total_weights(positions, sizes)
        at = 0
        for size, total, part in zip(sizes, totals, slices, strict=True):
            end = at + part.stop - part.start
            mine = slice(at, end)
            own = Inputs(inputs.numbers[mine], inputs.categories[mine])
            yield Batch(own, targets[mine], rows[mine], weights[mine], size, total)
            at = end

    def _total_weights(self, positions: Rows, sizes: list[int]) -> list[float]:
        """The weight of each whole batch: the same number on every rank."""
        if not self.reader.is_weighted:
            return [float(size) for size in sizes]
        weights = self.reader.weights(self.rows[positions])
        starts = np.cumsum([0, *sizes[:-1]])
        return [float(total) for total in np.add.reduceat(weights, starts)]


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The `rank`-th of `world_size` contiguous slices of `count` things."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)
