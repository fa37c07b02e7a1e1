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
    """

    best_score: float | None = None
    best_step: int = 0
    num_worse: int = 0
    num_drops: int = 0
    num_flat: int = 0

    def after(self, score: float, step: int, goal: Goal, plateau: int = 0) -> Progress:
        """The state after one more evaluation; `plateau` of them without a better one are one. A
        score that is not finite is never best.
        """
        if math.isfinite(score) and (
            self.best_score is None or better(score, self.best_score, goal)
        ):
            return Progress(score, step, 0, self.num_drops, 0)
        drop = self.num_flat + 1 == plateau
        return Progress(
            self.best_score,
            self.best_step,
            self.num_worse + 1,
            self.num_drops + drop,
            0 if drop else self.num_flat + 1,
        )

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint's manifest holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """What `to_json` wrote."""
        return cls(**value)


def better(score: float, other: float, goal: Goal) -> bool:
    """Whether `score` beats `other`."""
    return score > other if goal == "max" else score < other
