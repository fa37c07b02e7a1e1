"""The order of an epoch: a pure function of (number of rows, seed, epoch).

Positions are cut into chunks of 8,192; chunks are permuted; rows are shuffled within windows
of 8 chunks. Reading a window touches only 8 stretches of memory, and any position of any
epoch can be computed without the ones before it, so that a cursor is one number.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import key_of, permutation

CHUNK_ROWS = 8_192
CHUNKS_PER_WINDOW = 8
Positions = npt.NDArray[np.int64]


class EpochOrder:
    """The shuffled positions 0..num_rows of one epoch, sliced like an array."""

    def __init__(self, num_rows: int, seed: int, epoch: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, epoch

    def positions(self, start: int, stop: int) -> Positions:
        """Positions `start` to `stop` of the epoch, [stop - start] int64."""
        first = int(np.searchsorted(self._window_starts, start, "right")) - 1
        parts = []
        for window in range(first, len(self._window_starts) - 1):
            begin, end = self._window_starts[window : window + 2]
            if begin >= stop:
                break
            parts.append(self._window(window)[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _window(self, window: int) -> Positions:
        return _shuffled_window(self.num_rows, self.seed, self.epoch, window)

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


@lru_cache(maxsize=4)
def _shuffled_window(num_rows: int, seed: int, epoch: int, window: int) -> Positions:
    order = EpochOrder(num_rows, seed, epoch)
    chunks = order.chunks[window * CHUNKS_PER_WINDOW : (window + 1) * CHUNKS_PER_WINDOW]
    rows = np.concatenate(
        [np.arange(c * CHUNK_ROWS, min((c + 1) * CHUNK_ROWS, num_rows)) for c in chunks]
    )
    shuffled: Positions = rows[permutation(key_of("rows", seed, epoch, window), len(rows))]
    shuffled.flags.writeable = False
    return shuffled
