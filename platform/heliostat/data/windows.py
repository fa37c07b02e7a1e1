"""The training rows of a streamed source in the order of an epoch, a window at a time.

Row groups are permuted and cut into windows of about 262,144 rows, and rows shuffled within
each: a pure function of (seed, epoch). How many training rows each row group has is known, so
every window's place in the epoch is known too, and global batch s is exactly positions
[sB, min((s+1)B, n)) whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.catalog.read import read_groups
from heliostat.data.encode import Encoder
from heliostat.data.hashing import key_of, permutation
from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared, StreamFacts
from heliostat.data.reader import EncodedRows, RowReader
from heliostat.data.sieve import Sieve
from heliostat.data.times import TRAIN
from heliostat.errors import DataError, Problem
from heliostat.plan.inputs import PackedColumn

WINDOW_ROWS = 262_144
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Row groups, by number, that make positions [start, stop) of an epoch."""

    epoch: int
    index: int
    groups: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """The windows of every epoch. One is another only if it is the same object."""

    facts: StreamFacts
    seed: int

    @cached_property
    def num_rows(self) -> int:
        """Training rows of an epoch."""
        return int(self.facts.train_rows.sum())

    def windows(self, epoch: int) -> tuple[Window, ...]:
        """The windows of an epoch, in order."""
        return _windows(self, epoch)


@lru_cache(maxsize=4)
def _windows(order: WindowOrder, epoch: int) -> tuple[Window, ...]:
    counts = order.facts.train_rows
    shuffled = permutation(key_of("groups", order.seed, epoch), len(counts))
    shuffled = shuffled[counts[shuffled] > 0]
    ends = np.cumsum(counts[shuffled])
    windows: list[Window] = []
    first = start = 0
    while first < len(shuffled):
        last = max(first, int(np.searchsorted(ends, start + WINDOW_ROWS, "right")) - 1)
        groups, stop = shuffled[first : last + 1].tolist(), int(ends[last])
        windows.append(Window(epoch, len(windows), tuple(groups), start, stop))
        first, start = last + 1, stop
    return tuple(windows)


@dataclass(frozen=True)
class Slice:
    """One rank's rows of a window, in order. `batches` are the numbers (in the epoch) of the
    batches that the window holds rows of, `counts` how many of them are this rank's, and
    `totals` what the rows of all ranks weigh together.
    """

    own: EncodedRows
    batches: Rows
    counts: Rows
    totals: npt.NDArray[np.float64]


@dataclass(frozen=True)
class WindowReader:
    """Reads windows from the source and cuts them for the ranks."""

    order: WindowOrder
    sieve: Sieve
    encoder: Encoder
    batch_size: int
    world_size: int

    def slices(self, window: Window) -> Iterator[Slice]:
        """The window's rows for each rank.

        Raises:
            DataError: a page is damaged, or the source changed since it was looked at.
        """
        read = self._shuffled(window)
        positions = np.arange(window.start, window.stop)
        numbers = positions // self.batch_size
        batches, firsts = np.unique(numbers, return_index=True)
        totals = np.add.reduceat(read.weights.astype(np.float64), firsts)
        for rank in range(self.world_size):
            mine = self._of_rank(positions, numbers, rank)
            counts = np.bincount(numbers[mine] - batches[0], minlength=len(batches))
            yield Slice(read.take(np.flatnonzero(mine)), batches, counts, totals)

    def _of_rank(self, positions: Rows, numbers: Rows, rank: int) -> npt.NDArray[np.bool_]:
        """Which positions lie in the rank's slice of their batch."""
        size = np.minimum(self.batch_size, self.order.num_rows - numbers * self.batch_size)
        place = positions - numbers * self.batch_size
        first = size * rank // self.world_size
        last = size * (rank + 1) // self.world_size
        mine: npt.NDArray[np.bool_] = (place >= first) & (place < last)
        return mine

    def _shuffled(self, window: Window) -> EncodedRows:
        key = key_of("rows", self.order.seed, window.epoch, window.index)
        read = EncodedRows.joined([self._group(number) for number in window.groups])
        return read.take(permutation(key, window.stop - window.start))

    def _group(self, number: int) -> EncodedRows:
        """The training rows of a row group, encoded; each named by its place in the source."""
        facts, columns = self.order.facts, self.sieve.columns.packed
        group = facts.groups[number]
        names = sorted({column.name for column in columns})
        tables, chosen = [], []
        for piece in read_groups([group], facts.schema, names, self.sieve.data.filter):
            if len(piece.rows):
                packed = unpack(pack_table(piece.table, columns)[0])
                train = self.sieve.sides(packed, piece.path, piece.rows)[0] == TRAIN
                tables.append(piece.table.filter(train))
                chosen.append(piece.rows[train])
        found = sum(len(rows) for rows in chosen)
        if found != facts.train_rows[number]:
            place = f"{group.location}, row group {group.index}"
            message = f"gives {found:,} training rows, {facts.train_rows[number]:,} before"
            raise DataError(Problem(place, message, "did it change? Run again"))
        names_of_rows = np.concatenate(chosen) - group.first_row + self._first_row(number)
        reader = RowReader(_in_memory(tables, columns), self.encoder)
        read = reader.encoded(np.arange(found), names_of_rows)
        if self.encoder.target.classes and (read.target < 0).any():
            name = self.encoder.target.name
            message = f"holds a class of `{name}` that no sampled training row has"
            remedy = "drop the rare classes, or write `ingest: prepared`"
            raise DataError(Problem(group.location, message, remedy))
        return read

    def _first_row(self, number: int) -> int:
        return int(_first_rows(self.order)[number])


@lru_cache(maxsize=1)
def _first_rows(order: WindowOrder) -> Rows:
    return np.cumsum([0, *(group.num_rows for group in order.facts.groups)])


def _in_memory(tables: Sequence[pa.Table], columns: Sequence[PackedColumn]) -> Prepared:
    batch, _ = pack_table(pa.concat_tables(tables), columns)
    return Prepared.of_batch(unpack(batch))
