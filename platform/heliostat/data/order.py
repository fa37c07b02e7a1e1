"""The order of an epoch: a pure function of (number of rows, seed, epoch).

Positions are cut into chunks of 8,192; chunks are permuted; rows are shuffled within windows
of 8 chunks. Reading a window touches only 8 stretches of memory, and any position of any
epoch can be computed without the ones before it, so that a cursor is one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import key_of, permutation

CHUNK_ROWS = 8_192
CHUNKS_PER_WINDOW = 8
Positions = npt.NDArray[np.int64]
Shuffled = npt.NDArray[np.uint16]


class EpochOrder:
    """The shuffled positions 0..num_rows of one epoch, sliced like an array."""

    def __init__(self, num_rows: int, seed: int, epoch: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, epoch

    def positions(self, start: int, stop: int) -> Positions:
        """Positions `start` to `stop` of the epoch, [stop - start] int64."""
        parts = [rows[shuffled] for rows, shuffled in self.pieces(start, stop)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Positions, Shuffled]]:
        """The same, a window at a time: the window's positions chunk by chunk, and which of
        them come in which order. Sorting the latter is fast, for they are 16 bits.
        """
        first = int(np.searchsorted(self._window_starts, start, "right")) - 1
        for window in range(first, len(self._window_starts) - 1):
            begin, end = self._window_starts[window : window + 2]
            if begin >= stop:
                return
            rows, shuffled = self._window(window)
            yield rows, shuffled[max(start - begin, 0) : stop - begin]

    @cached_property
    def chunks(self) -> Positions:
        """The chunks in the order of this epoch."""
        return permutation(key_of("chunks", self.seed, self.epoch), -(-self.num_rows // CHUNK_ROWS))

    @cached_property
    def _window_starts(self) -> Positions:
        """Where each window begins; the last entry is the number of rows."""
        sizes = np.minimum((self.chunks + 1) * CHUNK_ROWS, self.num_rows) - self.chunks * CHUNK_ROWS
        bounds = np.cumsum(np.concatenate([[0], sizes]))
        return np.append(bounds[:-1:CHUNKS_PER_WINDOW], self.num_rows)

    def _window(self, window: int) -> tuple[Positions, Shuffled]:
        chunks = self.chunks[window * CHUNKS_PER_WINDOW : (window + 1) * CHUNKS_PER_WINDOW]
        ends = np.minimum((chunks + 1) * CHUNK_ROWS, self.num_rows)
        starts = (chunks * CHUNK_ROWS).tolist()
        rows = np.concatenate(
            [np.arange(*bounds) for bounds in zip(starts, ends.tolist(), strict=True)]
        )
        key = key_of("rows", self.seed, self.epoch, window)
        return rows, permutation(key, len(rows)).astype(np.uint16)
