"""Successive halving: which trials go on past a rung. Decisions are pure functions of the scores
told so far.

A System for Massively Parallel Hyperparameter Tuning (Li et al., MLSys 2020).
"""

from __future__ import annotations

import bisect
import math
from typing import Protocol

from heliostat.spec.metrics import Goal
from heliostat.spec.tune import AshaScheduler, Scheduler

ON, CUTS, WAITS = "on", "cut", "waits"


class Rule(Protocol):
    """Judges the trials that come to rungs; rungs count from 0."""

    def arrived(self, rung: int, index: int, score: float) -> None:
        """Trial `index` has come to a rung with a score."""

    def verdict(self, rung: int, index: int) -> str:
        """What becomes of a trial that has just come there: `on`, `cut`, or it `waits`."""

    def promoted(self, least: int) -> int | None:
        """The trial among those that wait which now goes on; it waits no longer. At `least` so many
        of a rung may.
        """


def rule_of(scheduler: Scheduler, goal: Goal) -> Rule:
    """The rule that a job's scheduler names; without rungs none is ever asked."""
    if not isinstance(scheduler, AshaScheduler):
        return Stopping(1, goal)
    kind = Promoting if scheduler.mode == "promote" else Stopping
    return kind(scheduler.reduction_factor, goal)


class Stopping:
    """A trial goes on if it is among the best floor(n / factor), at least one, of the n scores
    seen at its rung, its own included. A score that is not finite never goes on.
    """

    def __init__(self, factor: int, goal: Goal) -> None:
        self._factor, self._sign = factor, -1.0 if goal == "max" else 1.0
        self._rungs: dict[int, list[float]] = {}
        self._costs: dict[tuple[int, int], float] = {}

    def arrived(self, rung: int, index: int, score: float) -> None:
        """See `Rule`."""
        cost = self._sign * score
        self._costs[rung, index] = cost
        if math.isfinite(cost):
            bisect.insort(self._rungs.setdefault(rung, []), cost)

    def verdict(self, rung: int, index: int) -> str:
        """See `Rule`."""
        cost, seen = self._costs[rung, index], self._rungs.get(rung, [])
        if not math.isfinite(cost):
            return CUTS
        kept = max(1, len(seen) // self._factor)
        return ON if cost <= seen[kept - 1] else CUTS

    def promoted(self, least: int) -> int | None:
        """See `Rule`: none ever waits."""
        return None


class Promoting:
    """Every trial waits at its rung; the best floor(n / factor) of the n that have come there go
    on, the highest rung first.
    """

    def __init__(self, factor: int, goal: Goal) -> None:
        self._factor, self._sign = factor, -1.0 if goal == "max" else 1.0
        self._rungs: dict[int, list[tuple[float, int]]] = {}
        self._gone: dict[int, set[int]] = {}

    def arrived(self, rung: int, index: int, score: float) -> None:
        """See `Rule`."""
        cost = self._sign * score
        if math.isfinite(cost):
            bisect.insort(self._rungs.setdefault(rung, []), (cost, index))

    def verdict(self, rung: int, index: int) -> str:
        """See `Rule`."""
        return WAITS

    def promoted(self, least: int) -> int | None:
        """See `Rule`."""
        for rung in sorted(self._rungs, reverse=True):
            seen, gone = self._rungs[rung], self._gone.setdefault(rung, set())
            best = max(least, len(seen) // self._factor)
            found = next((index for _, index in seen[:best] if index not in gone), None)
            if found is not None:
                gone.add(found)
                return found
        return None
