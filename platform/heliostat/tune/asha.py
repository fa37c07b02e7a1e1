"""Asynchronous successive halving, the stopping variant: one pure decision.

A System for Massively Parallel Hyperparameter Tuning (Li et al., MLSys 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from heliostat.spec.metrics import Goal


def goes_on(score: float, scores: Sequence[float], reduction_factor: int, goal: Goal) -> bool:
    """Whether a trial with `score` at a rung goes on: if it is among the best
    floor(n / reduction_factor), at least one, of the n `scores` seen there, its own included.
    A score that is not finite never goes on.
    """
    if not math.isfinite(score):
        return False
    kept = max(1, len(scores) // reduction_factor)
    ranked = sorted(scores, reverse=goal == "max")
    threshold = ranked[kept - 1]
    return score >= threshold if goal == "max" else score <= threshold
