"""What a sweep is made of: trials, the pieces of work they are done in, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heliostat.plan.space import Configuration

RUNNING, PAUSED = "running", "paused"
STOPPED = "stopped"  # with a checkpoint, on the way: the sweep is to end, and nothing is decided
FINISHED, CUT, FAILED = "finished", "cut", "failed"
Key = tuple[str, int | None, int | None]


@dataclass(frozen=True)
class Trial:
    """A configuration to be tried: its identity, and its place in issue order."""

    id: str
    index: int
    config: Configuration


@dataclass(frozen=True)
class Work:
    """A trial, or one of its folds, to be trained from where it stands `until` a rung (None: to
    its end).
    """

    trial: Trial
    fold: int | None = None
    until: int | None = None

    @property
    def key(self) -> Key:
        """What the ledger knows it by."""
        return self.trial.id, self.fold, self.until


@dataclass(frozen=True)
class Outcome:
    """What came of a work: it paused at its rung, finished, or failed. `score` is NaN without one;
    `verdict` is what was decided of it before, `on` or `cut`, if the ledger knows.
    """

    work: Work
    status: str
    progress: int = 0
    score: float = float("nan")
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    uncertainty: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a trial has ended. With folds, `metrics` are their means, and `uncertainty` is the
    standard error of `score` among them; without, as the trial's own rows tell it.
    """

    trial: Trial
    status: str
    progress: int
    score: float
    metrics: Mapping[str, Any]
    seconds: float = 0.0
    error: str | None = None
    uncertainty: float | None = None
    folds: tuple[Mapping[str, Any], ...] = ()
    lengths: tuple[int, ...] = ()
