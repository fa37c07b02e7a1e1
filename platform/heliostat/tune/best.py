"""The best trial's model scored on every side, by lanes that have nothing else to do. They begin
while the last trials still train: one of these seldom turns out to be better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heliostat.plan.counts import SIDES
from heliostat.tune.ledger import TrialRecord
from heliostat.tune.order import Answer, Scoring


@dataclass(frozen=True)
class Scored:
    """Metrics by side, and what is drawn of them."""

    metrics: Mapping[str, Any]
    details: Mapping[str, Any]


class BestScores:
    """`scoring_of` says how a trial's model is scored by a lane, if it can be."""

    def __init__(self, scoring_of: Callable[[TrialRecord], Scoring | None]) -> None:
        self._scoring_of = scoring_of
        self._best = ""
        self._whole: Scoring | None = None
        self._waiting: list[str] = []
        self._answers: dict[str, Answer] = {}

    def next(self, best: TrialRecord) -> Scoring | None:
        """What is to be scored next, if `best` is the best trial: one side."""
        if best.id != self._best:
            self._best, self._whole = best.id, self._scoring_of(best)
            self._waiting, self._answers = list(SIDES), {}
        if self._whole is None or not self._waiting:
            return None
        return replace(self._whole, sides=(self._waiting.pop(0),))

    def take(self, scoring: Scoring, answer: Answer) -> None:
        """What came of it. Of a trial that is no longer the best, nothing is kept."""
        if scoring.trial == self._best:
            self._answers[scoring.sides[0]] = answer

    def of(self, best: TrialRecord) -> Scored | None:
        """The scores of `best` on all sides; None: some were not scored here."""
        if best.id != self._best or set(self._answers) != set(SIDES):
            return None
        answers = [self._answers[side] for side in SIDES]
        return Scored(
            {side: values for answer in answers for side, values in answer.metrics.items()},
            {side: values for answer in answers for side, values in answer.details.items()},
        )
