"""A sweep to be run, as a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from heliostat.plan.fuse import Company
from heliostat.plan.plan import Plan
from heliostat.plan.space import Configuration
from heliostat.spec.metrics import Goal
from heliostat.spec.tune import AshaScheduler, TuneSpec
from heliostat.storage.objects import StorePath
from heliostat.train.assignment import Assignment
from heliostat.train.workers import GroupSpec
from heliostat.tune.ledger import Ledger, TrialRecord
from heliostat.tune.order import Scoring
from heliostat.tune.pause import Pause
from heliostat.tune.search import Search
from heliostat.tune.work import Work


class SweepView(Protocol):
    """Who watches a sweep."""

    def trial_ended(
        self, record: TrialRecord, best: TrialRecord | None, num_done: int, num_running: int
    ) -> None:
        """A trial has ended; `best` is the best so far, over all runs of the name."""

    def changed(self, record: TrialRecord, num_running: int) -> None:
        """A trial has begun, come to a rung, or is known to have ended; so many are in training."""

    def noted(self, text: str) -> None:
        """Something a person should read."""


@dataclass(frozen=True)
class Sweep:
    """What is searched, by what, and where it lies. `identify` gives the id of a configuration,
    `assign` the training of a work; `models` keeps the model of the best trial of the name,
    `checkpoints` those of trials on their way, `metrics_folder` the learning curves of this
    run; `company` says which works can be trained together; `scoring` how a lane scores the best
    trial's model in the end, if it can; `pause` tells lanes that the sweep ends.
    """

    plan: Plan
    search: Search
    folds: Sequence[int | None]
    identify: Callable[[Configuration], str]
    assign: Callable[[Work], Assignment]
    ledger: Ledger
    models: StorePath
    checkpoints: StorePath
    metrics_folder: StorePath
    company: Callable[[Work], Company | None]
    scoring: Callable[[TrialRecord], Scoring | None]
    group: GroupSpec
    concurrency: int
    stop_requested: Callable[[], bool]
    deadline: float | None
    limit: str
    view: SweepView
    pause: Pause

    @property
    def spec(self) -> TuneSpec:
        """The job's `tune`."""
        spec = self.plan.job.spec.tune
        assert spec is not None
        return spec

    @property
    def goal(self) -> Goal:
        """Which way the objective is better."""
        return self.plan.job.spec.objective_goal

    @property
    def is_paced(self) -> bool:
        """Whether trials leave their lane at a rung, with a checkpoint, until they go on."""
        return is_paced(self.spec, len(self.folds))


def is_paced(tune: TuneSpec, num_folds: int) -> bool:
    """See `Sweep`: where a verdict may be long in coming, or several trainings make one trial."""
    scheduler = tune.scheduler
    if not isinstance(scheduler, AshaScheduler):
        return False
    return scheduler.mode == "promote" or tune.deterministic or tune.fuse or num_folds > 1
