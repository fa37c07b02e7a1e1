"""The folds of cross-validation: every row that is not kept for test validates once.

For a split by time, fold f trains on the blocks of time up to f and validates on the next: no
training row is later than a validation row, and the first block never validates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import key_of, value_hashes
from heliostat.data.labels import Kept, Labels, by_rank, by_row, by_value, times_of, value_sizes
from heliostat.data.ranks import Counts
from heliostat.data.times import NONE, TRAIN, VALIDATION, blocks_by_time, gap_start
from heliostat.plan.columns import Columns
from heliostat.spec.data import DataSpec, GroupSplit, HashSplit, TimeSplit

Roles = npt.NDArray[np.int8]


def roles_of(
    kept: Kept, columns: Columns, data: DataSpec, seed: int, num_folds: int
) -> Iterator[Roles]:
    """[folds, rows] of each shard's kept rows: who trains, validates, or stays out in a fold."""
    split = data.split
    if isinstance(split, TimeSplit):
        assert columns.split is not None
        yield from _by_time(kept, times_of(kept, columns.split), num_folds, split.gap)
        return
    for fold in _folds(kept, data, seed, num_folds):
        roles = np.full((num_folds, len(fold)), TRAIN, np.int8)
        roles[fold, np.arange(len(fold))] = VALIDATION
        yield roles


def _folds(kept: Kept, data: DataSpec, seed: int, num_folds: int) -> Labels:
    split = data.split
    if isinstance(split, GroupSplit):
        fold_of = grouped_folds(value_sizes(kept, split.column), seed, num_folds)
        return by_value(
            kept,
            split.column,
            lambda values: np.array([fold_of.get(v, 0) for v in values], np.int8),
        )
    if isinstance(split, HashSplit):
        return by_value(kept, split.column, lambda values: hashed_folds(values, seed, num_folds))
    classes = data.target if split.method == "stratified" else None
    return by_rank(kept, seed, classes, lambda sizes: even_sizes(sizes, num_folds)[:, :-1])


def even_sizes(sizes: Counts, num_folds: int) -> Counts:
    """[classes, folds] rows: they differ by one at most in every class, and in all together."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    folds = np.arange(num_folds)
    # How many of the places start, start + 1, ... end - 1 leave the rest `fold` by `num_folds`.
    upto = [(bound[:, None] - folds - 1) // num_folds for bound in (ends, starts)]
    result: Counts = upto[0] - upto[1]
    return result


def grouped_folds(sizes: dict[str, int], seed: int, num_folds: int) -> dict[str | None, int]:
    """Whole groups, the largest first, each to the fold that is smallest so far."""
    names = list(sizes)
    counts = np.array(list(sizes.values()), np.int64)
    order = np.lexsort((value_hashes(seed, names), -counts))
    filled = [0] * num_folds
    fold_of: dict[str | None, int] = {}
    for place in order.tolist():
        fold = filled.index(min(filled))
        filled[fold] += int(counts[place])
        fold_of[names[place]] = fold
    return fold_of


def hashed_folds(values: Any, seed: int, num_folds: int) -> npt.NDArray[np.int8]:
    """By a hash of the value: the same value, the same fold, today and tomorrow."""
    key = int(key_of(seed, "fold"))
    return (value_hashes(key, values) % np.uint64(num_folds)).astype(np.int8)


def _by_time(
    kept: Kept, times: npt.NDArray[Any], num_folds: int, gap: float | str
) -> Iterator[Roles]:
    blocks, starts = blocks_by_time(times, num_folds)
    ordered = np.sort(times)
    until = [gap_start(ordered, start, gap) for start in starts]
    at = 0
    for block in by_row(kept, blocks):
        own = times[at : at + len(block)]
        at += len(block)
        roles = np.full((num_folds, len(block)), NONE, np.int8)
        for fold in range(num_folds):
            roles[fold, own < until[fold]] = TRAIN
            roles[fold, block == fold + 1] = VALIDATION
        yield roles
