"""How many rows each side of a split gets: exact where footers can tell, else a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

from heliostat.catalog.catalog import Catalog
from heliostat.spec.data import DataSpec, FractionSplit, SourceSplit, TimeSplit

MOST_TRAIN_SEQUENCES = 1_024  # that the metrics of `train` of a language model are taken from
SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitCounts:
    """Rows a side; `exact` is false where cleaning or values decide, and then these are the
    numbers for a source of which no row is dropped.
    """

    train: int
    validation: int
    test: int
    exact: bool


def share_count(num_rows: int, fraction: float) -> int:
    """A fraction of `num_rows`, rounded half up."""
    return math.floor(num_rows * fraction + 0.5)


def planned_counts(data: DataSpec, catalog: Catalog, may_drop: bool) -> SplitCounts | None:
    """Counts from the numbers of rows alone; None where only the data can tell."""
    split, num_rows = data.split, catalog.num_rows
    if isinstance(split, SourceSplit):
        rows = dict.fromkeys(SIDES, 0)
        for group in catalog.row_groups:
            rows[group.path.partition(":")[0]] += group.num_rows
        return SplitCounts(rows["train"], rows["validation"], rows["test"], not may_drop)
    if isinstance(split, TimeSplit):
        if isinstance(split.validation, str) or isinstance(split.test, str):
            return None
        validation, test = split.validation, split.test
    elif isinstance(split, FractionSplit):
        validation, test = split.validation, split.test
    else:
        return None
    if split.folds is not None:  # of one fold; by time, each trains on less than the next
        num_test = share_count(num_rows, test) if isinstance(test, float) else 0
        num_validation = (num_rows - num_test) // (split.folds + (split.method == "time"))
        return SplitCounts(num_rows - num_test - num_validation, num_validation, num_test, False)
    num_validation, num_test = share_count(num_rows, validation), share_count(num_rows, test)
    exact = split.method in ("random", "stratified") and not may_drop
    return SplitCounts(num_rows - num_validation - num_test, num_validation, num_test, exact)
