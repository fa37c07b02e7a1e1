"""Rows that stay together, whole groups or equal times, and what that makes of a split's shares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from heliostat.data.labels import Kept, times_of, value_sizes
from heliostat.data.prepared import Prepared
from heliostat.plan.columns import Columns
from heliostat.plan.counts import SIDES, share_count
from heliostat.spec.data import ColumnSplit, DataSpec, GroupSplit, HashSplit, TimeSplit

MOST_OFF = 0.02  # of all rows, that a side may be from its share without a word


def split_notes(
    prepared: Prepared, columns: Columns, data: DataSpec, sides: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[str, ...]:
    """Where whole groups or equal times keep a side far from its share, and why."""
    if not isinstance(data.split, (GroupSplit, HashSplit, TimeSplit)):
        return ()
    total = sum(len(rows) for rows in sides.values())
    far = []
    for side in SIDES[1:]:
        share = getattr(data.split, side)
        if not isinstance(share, float) or (side == "validation" and data.num_folds):
            continue
        asked, got = share_count(total, share), len(sides[side])
        if abs(got - asked) > MOST_OFF * total:
            far.append(f"{got:,} rows for {side} where {share:g} of {total:,} is {asked:,}")
    if not far:
        return ()
    mask = np.zeros(prepared.num_rows, bool)
    for rows in sides.values():
        mask[rows] = True
    kept = Kept(prepared, mask)
    return (f"the split gives {' and '.join(far)}{cause_of(kept, columns, data)}",)


def cause_of(kept: Kept, columns: Columns, data: DataSpec) -> str:
    """The group or the time that holds most rows, which stay together."""
    split = data.split
    if isinstance(split, (GroupSplit, HashSplit, ColumnSplit)):
        sizes = value_sizes(kept, split.column)
        if not sizes:
            return ""
        largest = max(sizes, key=lambda value: sizes[value])
        what = f"the largest of {len(sizes):,}" if len(sizes) > 1 else "the only one"
        return f"; `{split.column}` is `{largest}` in {sizes[largest]:,} rows, {what}"
    if isinstance(split, TimeSplit) and columns.split is not None and len(kept):
        times, counts = np.unique(times_of(kept, columns.split), return_counts=True)
        place = int(np.argmax(counts))
        time = times[place]
        if columns.split.form == "time":
            time = np.datetime64(int(time), "us").astype("datetime64[s]")
        what = f"the commonest of {len(times):,} times" if len(times) > 1 else "the only time"
        return f"; `{split.column}` is `{time}` in {int(counts[place]):,} rows, {what}"
    return ""


def remedy_of(data: DataSpec) -> str:
    """What to do about a side that is empty."""
    if isinstance(data.split, (GroupSplit, HashSplit, TimeSplit)):
        return "rows of one value stay together: split by a column of finer values, or by `random`"
    if isinstance(data.split, ColumnSplit):
        return f"mark rows with one of: {', '.join(SIDES)}"
    return "enlarge its share, or clean less"
