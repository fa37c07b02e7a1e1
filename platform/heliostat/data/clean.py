"""Which rows take part: cleaning comes before splitting, and every dropped row is counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes, key_of, mix, value_hashes
from heliostat.data.pack import Words, is_missing
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.plan.inputs import PackedColumn
from heliostat.spec.data import CleanSpec

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
    keep = np.ones(prepared.num_rows, bool)
    dropped: dict[str, int] = {}

    def drop(reason: str, bad: Mask) -> None:
        count = int((keep & bad).sum())
        if count:
            dropped[reason] = count
            keep[bad] = False

    target = columns.target
    missing_target = _missing(prepared, target)
    if clean.missing_target == "error" and missing_target.any():
        raise DataError(
            Problem(
                "data.target",
                f"`{target.name}` is missing in {int(missing_target.sum()):,} rows",
                "write `clean: {missing_target: drop}` to leave them out",
            )
        )
    drop(f"{target.name}: target missing", missing_target)
    if columns.weight is not None:
        drop(
            f"{columns.weight.name}: weight missing", _missing_weight(prepared, columns.weight.name)
        )
    if columns.split is not None:
        name = columns.split.name
        drop(f"{name}: split column missing", _missing(prepared, columns.split))
    for column in columns.inputs:
        if column.missing == "drop":
            drop(f"{column.name}: missing", _missing(prepared, column.packed[0]))
    if clean.duplicates == "drop":
        drop("duplicate rows", _repeats(prepared, keep))
    return CleanRows(keep, dropped)


def _missing_weight(prepared: Prepared, name: str) -> Mask:
    weights = prepared.exact(name)
    if negative := int((weights < 0).sum()):
        raise DataError(
            Problem("data.weight", f"`{name}` is negative in {negative:,} rows", "weigh from 0 up")
        )
    return np.isnan(weights)


def _missing(prepared: Prepared, column: PackedColumn) -> Mask:
    return np.concatenate([is_missing(shard, column) for shard in prepared.shards])


def _repeats(prepared: Prepared, keep: Mask) -> Mask:
    """Rows equal to an earlier kept one in every column the job uses, as 64-bit hashes."""
    hashes = _content_hashes(prepared)
    rows = np.flatnonzero(keep)
    _, first = np.unique(hashes[rows], return_index=True)
    repeats = np.zeros(prepared.num_rows, bool)
    repeats[rows] = True
    repeats[rows[first]] = False
    return repeats


def _content_hashes(prepared: Prepared) -> Hashes:
    parts = []
    for shard in prepared.shards:
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
        parts.append(hashes)
    return np.concatenate(parts)


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
