"""The folds of cross-validation: every row that is not kept for test validates once.

For a split by time, fold f trains on the blocks of time up to f and validates on the next: no
training row is later than a validation row, and the first block never validates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes, key_of, value_hashes

TRAIN, VALIDATION, NONE = 0, 1, 3
Roles = npt.NDArray[np.int8]


def roles_of(fold: npt.NDArray[np.int64], num_folds: int) -> Roles:
    """[folds, rows]: each row validates in its own fold and trains in the others."""
    roles = np.full((num_folds, len(fold)), TRAIN, np.int8)
    roles[fold, np.arange(len(fold))] = VALIDATION
    return roles


def ranked_folds(
    hashes: Hashes, classes: npt.NDArray[Any], num_folds: int
) -> npt.NDArray[np.int64]:
    """Rows in turn, in the order of (class, hash): sizes differ by one at most, over all and in
    every class.
    """
    if len(classes) and (classes == classes[0]).all():
        fold = _quantiles(hashes, num_folds)
        sizes = np.bincount(fold, minlength=num_folds)
        if sizes.max() - sizes.min() <= 1:  # equal hashes, if there are any, fell well
            return fold
    order = np.lexsort((hashes, classes))
    fold = np.empty(len(hashes), np.int64)
    fold[order] = np.arange(len(hashes)) % num_folds
    return fold


def _quantiles(hashes: Hashes, num_folds: int) -> npt.NDArray[np.int64]:
    """Folds by the hashes' quantiles, without sorting them."""
    places = [len(hashes) * i // num_folds for i in range(1, num_folds)]
    cuts = np.partition(hashes, places)[places] if places else hashes[:0]
    return np.searchsorted(cuts, hashes, "right")


def grouped_folds(
    codes: npt.NDArray[np.int32], values: tuple[str, ...], seed: int, num_folds: int
) -> npt.NDArray[np.int64]:
    """Whole groups, the largest first, each to the fold that is smallest so far."""
    sizes = np.bincount(codes, minlength=len(values))
    order = np.lexsort((value_hashes(seed, values), -sizes))
    filled = [0] * num_folds
    of_value = np.zeros(len(values), np.int64)
    for value in order.tolist():
        fold = filled.index(min(filled))
        filled[fold] += int(sizes[value])
        of_value[value] = fold
    return of_value[codes]


def hashed_folds(
    codes: npt.NDArray[np.int32], values: tuple[str, ...], seed: int, num_folds: int
) -> npt.NDArray[np.int64]:
    """By a hash of the value: the same value, the same fold, today and tomorrow."""
    key = int(key_of(seed, "fold"))
    return (value_hashes(key, values) % np.uint64(num_folds)).astype(np.int64)[codes]


def timed_roles(times: npt.NDArray[Any], num_folds: int, gap: Any) -> Roles:
    """Blocks of equal numbers of rows, equal times together; `gap(start)` is the time from
    which on rows before `start` stay out.
    """
    ordered = np.sort(times)
    cuts = [ordered[len(ordered) * i // (num_folds + 1)] for i in range(1, num_folds + 1)]
    ends = [*cuts[1:], np.inf]
    roles = np.full((num_folds, len(times)), NONE, np.int8)
    for fold, (start, end) in enumerate(zip(cuts, ends, strict=True)):
        roles[fold, times < gap(start)] = TRAIN
        roles[fold, (times >= start) & (times < end)] = VALIDATION
    return roles
