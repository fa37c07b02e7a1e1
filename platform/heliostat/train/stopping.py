"""The best score so far, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heliostat.spec.metrics import Goal


@dataclass(frozen=True)
class Progress:
    """The state of early stopping and of a schedule that waits for plateaus: a value, so that a
    checkpoint holds it whole. `num_drops` counts plateaus; `num_flat` the evaluations of this one.
    `best_tie` is what decides, lower being better, between equal scores.
    """

    best_score: float | None = None
    best_step: int = 0
    num_worse: int = 0
    num_drops: int = 0
    num_flat: int = 0
    best_tie: float | None = None

    def after(
        self, score: float, step: int, goal: Goal, plateau: int = 0, tie: float | None = None
    ) -> Progress:
        """The state after one more evaluation; `plateau` of them without a better one are one. A
        score that is not finite tells nothing: it is neither better nor worse.
        """
        if not math.isfinite(score):
            return self
        if self.best_score is None or better(score, self.best_score, goal, tie, self.best_tie):
            known = tie if tie is not None and math.isfinite(tie) else None
            return Progress(score, step, 0, self.num_drops, 0, known)
        drop = self.num_flat + 1 == plateau
        return Progress(
            self.best_score,
            self.best_step,
            self.num_worse + 1,
            self.num_drops + drop,
            0 if drop else self.num_flat + 1,
            self.best_tie,
        )

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint's manifest holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """What `to_json` wrote."""
        return cls(**value)


def better(
    score: float,
    other: float,
    goal: Goal,
    tie: float | None = None,
    other_tie: float | None = None,
) -> bool:
    """Whether `score` beats `other`; of equal ones the lower tie wins, if both have one."""
    if score == other:
        return tie is not None and other_tie is not None and tie < other_tie
    return score > other if goal == "max" else score < other
