"""Sides and folds by time: the latest rows are judged, and nothing later than them trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.plan.counts import share_count
from heliostat.spec.base import parse_duration_seconds
from heliostat.spec.data import TimeSplit

TRAIN, VALIDATION, TEST, NONE = range(4)
MICROSECONDS = 1_000_000
Times = npt.NDArray[Any]


def sides_by_time(times: Times, split: TimeSplit) -> npt.NDArray[np.int8]:
    """The latest times to test, those before to validation; equal times stay together, and a
    gap before each boundary belongs to no side.
    """
    sides = np.full(len(times), TRAIN, np.int8)
    ordered = np.sort(times)
    test_start = _start_of(ordered, split.test, len(times))
    before = ordered[ordered < test_start]
    validation = 0.0 if split.folds is not None else split.validation
    validation_start = _start_of(before, validation, len(times))
    sides[times >= validation_start] = VALIDATION
    sides[times >= test_start] = TEST
    for start in {validation_start, test_start} - {np.inf}:
        sides[(times < start) & (times >= gap_start(ordered, start, split.gap))] = NONE
    return sides


def blocks_by_time(times: Times, num_folds: int) -> tuple[npt.NDArray[np.int8], list[Any]]:
    """The block of each row, 0 to `num_folds`, in equal numbers of rows with equal times
    together; and where each block but the first begins. Block f + 1 validates in fold f.
    """
    ordered = np.sort(times)
    starts = [ordered[len(ordered) * i // (num_folds + 1)] for i in range(1, num_folds + 1)]
    return np.searchsorted(np.array(starts), times, "right").astype(np.int8), starts


def gap_start(ordered: Times, start: Any, gap: float | str) -> Any:
    """The time from which on rows before `start` stay out."""
    if isinstance(gap, str):
        return start - _microseconds(gap)
    count = share_count(len(ordered), gap)
    end = int(np.searchsorted(ordered, start, "left"))
    return ordered[max(end - count, 0)] if count and end else start


def _start_of(ordered: Times, share: float | str, num_rows: int) -> Any:
    """The first time of a side at the end of `ordered`: the boundary between different times
    nearest to the share asked for.
    """
    if len(ordered) == 0:
        return np.inf
    if isinstance(share, str):
        return ordered[-1] - _microseconds(share) + 1
    count = share_count(num_rows, share)
    if count == 0:
        return np.inf
    cut = ordered[max(len(ordered) - count, 0)]
    first = int(np.searchsorted(ordered, cut, "left"))
    after = int(np.searchsorted(ordered, cut, "right"))
    with_cut, without = len(ordered) - first, len(ordered) - after
    take = with_cut - count <= count - without or without == 0
    return cut if take else ordered[after]


def _microseconds(duration: str) -> int:
    seconds = parse_duration_seconds(duration)
    assert seconds is not None
    return int(seconds * MICROSECONDS)
