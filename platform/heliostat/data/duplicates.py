"""Rows that repeat an earlier one in every column the job uses.

What a row holds is hashed where it is packed, by the tasks of the one pass over the source, and
lies beside the shard; a copy that was made for jobs which keep duplicates is hashed here. The
64-bit hashes alone are compared, a range of them at a time: 8 bytes a row, in a file.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes, key_of, mix, value_hashes
from heliostat.data.moments import num_threads
from heliostat.data.pack import Packed, Words
from heliostat.data.prepared import Prepared
from heliostat.storage.files import on_full_disk

ROWS_COMPARED_AT_ONCE = 1 << 21
Mask = npt.NDArray[np.bool_]


def repeats(prepared: Prepared, keep: Mask) -> Mask:
    """Which rows equal an earlier kept one, as far as 64-bit hashes tell."""
    repeated = np.zeros(prepared.num_rows, bool)
    if prepared.num_rows == 0:
        return repeated
    num_ranges = -(-prepared.num_rows // ROWS_COMPARED_AT_ONCE)
    with tempfile.TemporaryFile() as file:
        with on_full_disk(Path(tempfile.gettempdir())):  # before pages are written that it lacks
            os.posix_fallocate(file.fileno(), 0, prepared.num_rows * np.uint64().itemsize)
        hashes = np.memmap(file, np.uint64, "r+", shape=(prepared.num_rows,))

        def write(index: int) -> None:
            start, end = prepared.offsets[index : index + 2]
            kept = prepared.contents.get(index)
            hashes[start:end] = content_hashes(prepared.shards[index]) if kept is None else kept

        with ThreadPoolExecutor(num_threads()) as pool:
            list(pool.map(write, range(len(prepared.shards))))
        for number in range(num_ranges):
            rows = _rows_in_range(hashes, keep, number, num_ranges)
            _, first = np.unique(hashes[rows], return_index=True)
            repeated[rows] = True
            repeated[rows[first]] = False
    return repeated


def content_hashes(shard: Packed) -> Hashes:
    """A hash of what each row holds, by values: never by codes or layout."""
    hashes = np.full(shard.num_rows, key_of("row"), np.uint64)
    for i in range(shard.numbers.shape[1]):
        hashes = mix(hashes ^ _number_bits(shard.numbers[:, i]))
    for name in sorted(shard.categories):
        category = shard.categories[name]
        hashes = mix(hashes ^ value_hashes(0, category.values)[category.codes])
    for name in sorted(shard.exact):
        hashes = mix(hashes ^ _number_bits(shard.exact[name]))
    for name in sorted(shard.times):
        hashes = mix(hashes ^ shard.times[name].view(np.uint64))
    for name in sorted(shard.vectors):
        for place in shard.vectors[name].T:
            hashes = mix(hashes ^ _number_bits(place))
    for name in sorted(shard.texts):
        hashes = mix(hashes ^ _word_bits(shard.texts[name]))
    return hashes


def _rows_in_range(
    hashes: Hashes, keep: Mask, number: int, num_ranges: int
) -> npt.NDArray[np.int64]:
    """The kept rows whose hashes fall in one of equal ranges, ascending."""
    found = []
    for start in range(0, len(hashes), ROWS_COMPARED_AT_ONCE):
        leading = hashes[start : start + ROWS_COMPARED_AT_ONCE] >> np.uint64(40)
        mine = leading * np.uint64(num_ranges) >> np.uint64(24) == number
        found.append(np.flatnonzero(mine & keep[start : start + ROWS_COMPARED_AT_ONCE]) + start)
    return np.concatenate(found)


def _number_bits(values: npt.NDArray[np.floating]) -> Hashes:
    """Bits by value: one NaN, one zero."""
    doubles = np.where(np.isnan(values), np.nan, values.astype(np.float64) + 0.0)
    return doubles.view(np.uint64)


def _word_bits(words: Words) -> Hashes:
    """One number a row that depends on its words and their order."""
    lengths = np.diff(words.offsets)
    place = np.arange(len(words.hashes)) - np.repeat(words.offsets[:-1], lengths)
    each = mix(words.hashes.astype(np.uint64) << np.uint64(32) ^ place.astype(np.uint64))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(each, dtype=np.uint64)])
    return total[words.offsets[1:]] - total[words.offsets[:-1]]
