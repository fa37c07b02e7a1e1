"""Which rows take part: cleaning comes before splitting, and every dropped row is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes, key_of, mix, value_hashes
from heliostat.data.moments import num_threads
from heliostat.data.pack import Packed, Words, is_missing
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.spec.data import CleanSpec

ROWS_COMPARED_AT_ONCE = 1 << 21
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CleanRows:
    """Which rows take part, and how many were dropped for which reason."""

    keep: Mask
    dropped: dict[str, int]


def clean_rows(prepared: Prepared, columns: Columns, clean: CleanSpec) -> CleanRows:
    """Drop what `clean` and `missing: drop` say.

    Raises:
        DataError: a target is missing and the job says `missing_target: error`.
    """
    parts = [kept_rows(shard, columns) for shard in prepared.shards]
    keep = np.concatenate([mask for mask, _ in parts])
    dropped = merged_counts(counts for _, counts in parts)
    check_target(dropped, columns, clean)
    if clean.duplicates == "drop" and (repeated := repeats(prepared, keep)).any():
        dropped["duplicate rows"] = int(repeated.sum())
        keep &= ~repeated
    return CleanRows(keep, dropped)


def kept_rows(packed: Packed, columns: Columns) -> tuple[Mask, dict[str, int]]:
    """Which rows of a batch lack nothing they need, and how many were dropped for which reason.

    Raises:
        DataError: a weight is negative.
    """
    keep = np.ones(packed.num_rows, bool)
    dropped: dict[str, int] = {}
    for reason, bad in _lacking(packed, columns):
        dropped[reason] = int((keep & bad).sum())
        keep &= ~bad
    return keep, dropped


def merged_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts by name, those of nothing left out."""
    total: dict[str, int] = {}
    for counts in parts:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return {name: count for name, count in total.items() if count}


def check_target(dropped: Mapping[str, int], columns: Columns, clean: CleanSpec) -> None:
    """Raise DataError where targets are missing and the job takes that for an error."""
    name = columns.target.name
    missing = dropped.get(_missing_target(columns), 0)
    if clean.missing_target == "error" and missing:
        raise DataError(
            Problem(
                "data.target",
                f"`{name}` is missing in {missing:,} rows",
                "write `clean: {missing_target: drop}` to leave them out",
            )
        )


def _missing_target(columns: Columns) -> str:
    return f"{columns.target.name}: target missing"


def _lacking(packed: Packed, columns: Columns) -> Iterator[tuple[str, Mask]]:
    yield _missing_target(columns), is_missing(packed, columns.target)
    if columns.weight is not None:
        name = columns.weight.name
        yield f"{name}: weight missing", _missing_weight(packed, name)
    if columns.split is not None:
        yield f"{columns.split.name}: split column missing", is_missing(packed, columns.split)
    for column in columns.inputs:
        if column.missing == "drop":
            yield f"{column.name}: missing", is_missing(packed, column.packed[0])


def _missing_weight(packed: Packed, name: str) -> Mask:
    weights = packed.exact[name]
    if negative := int((weights < 0).sum()):
        raise DataError(
            Problem("data.weight", f"`{name}` is negative in {negative:,} rows", "weigh from 0 up")
        )
    return np.isnan(weights)


def repeats(prepared: Prepared, keep: Mask) -> Mask:
    """Rows equal to an earlier kept one in every column the job uses, as 64-bit hashes. Shards are
    hashed on all threads; the hashes lie in a file and are compared a range of them at a time.
    """
    repeated = np.zeros(prepared.num_rows, bool)
    if prepared.num_rows == 0:
        return repeated
    num_ranges = -(-prepared.num_rows // ROWS_COMPARED_AT_ONCE)
    with tempfile.TemporaryFile() as file:
        hashes = np.memmap(file, np.uint64, "w+", shape=(prepared.num_rows,))

        def write(span: tuple[Packed, int, int]) -> None:
            shard, start, end = span
            hashes[start:end] = _content_hashes(shard)

        with ThreadPoolExecutor(num_threads()) as pool:
            for _ in pool.map(write, prepared.spans()):
                pass
        for number in range(num_ranges):
            rows = _rows_in_range(hashes, keep, number, num_ranges)
            _, first = np.unique(hashes[rows], return_index=True)
            repeated[rows] = True
            repeated[rows[first]] = False
    return repeated


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


def _content_hashes(shard: Packed) -> Hashes:
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
