"""Run a sweep: Ray Tune drives the trials, the ledger remembers, the best model is kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import InterruptedRunError, StoppedError, TrainError
from heliostat.plan.plan import Plan
from heliostat.spec.metrics import Goal
from heliostat.spec.tune import AshaScheduler, TuneSpec
from heliostat.storage.folders import remove_folder
from heliostat.storage.objects import StorePath
from heliostat.train.assignment import Assignment
from heliostat.train.stopping import better
from heliostat.train.workers import GroupSpec, placement_sentence
from heliostat.tune.asha import goes_on
from heliostat.tune.ledger import CUT, FAILED, FINISHED, Ledger, Trial, TrialRecord
from heliostat.tune.trainable import TrialActor, TrialContext

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshot is never read back
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class SweepView(Protocol):
    """Who watches a sweep."""

    def trial_ended(self, record: TrialRecord, best: TrialRecord | None, num_done: int) -> None:
        """A trial has ended; `best` is the best so far, over all runs of the name."""


@dataclass(frozen=True)
class Sweep:
    """A sweep to be run. `models` keeps the model of the best trial of the name;
    `metrics_folder` the learning curves of this run's trials.
    """

    plan: Plan
    trials: Sequence[Trial]
    assignments: Mapping[int, Assignment]
    ledger: Ledger
    models: StorePath
    metrics_folder: StorePath
    group: GroupSpec
    concurrency: int
    stop_requested: Callable[[], bool]
    deadline: float | None
    limit: str
    view: SweepView

    @property
    def tune_spec(self) -> TuneSpec:
        """The job's `tune`."""
        spec = self.plan.job.spec.tune
        assert spec is not None
        return spec

    @property
    def goal(self) -> Goal:
        """Which way the objective is better."""
        return self.plan.job.spec.objective_goal

    def best(self) -> TrialRecord | None:
        """The best of this sweep's trials that ran to their end; cut ones only if none did."""
        records = [self.ledger.records[t.id] for t in self.trials if t.id in self.ledger.records]
        for status in (FINISHED, CUT):
            ranked = [r for r in records if r.status == status and r.score is not None]
            if ranked:
                return _best_of(ranked, self.goal)
        return None


def run_sweep(sweep: Sweep) -> TrialRecord:
    """Run every trial that the ledger does not know to be done; the best one of all.

    Raises:
        StoppedError, InterruptedRunError: asked to stop, or out of time; the ledger keeps what
            is done.
        TrainError: more trials failed than `limits.failed_trials` allows, or all did.
    """
    scheduler = sweep.tune_spec.scheduler
    pending = [
        trial
        for trial in sweep.trials
        if trial.id not in sweep.ledger.records
        or not sweep.ledger.records[trial.id].is_done(scheduler)
    ]
    if pending:
        keeper = _Keeper(sweep, pending)
        _run_tune(sweep, pending, keeper)
        keeper.check_end()
    best = sweep.best()
    if best is None:
        raise TrainError(f"no trial has a finite {sweep.plan.job.spec.objective_metric}")
    return best


def _run_tune(sweep: Sweep, pending: Sequence[Trial], keeper: _Keeper) -> None:
    os.environ.update(ENVIRONMENT)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sweep.concurrency)
    context = TrialContext(
        {trial.index: sweep.assignments[trial.index] for trial in pending},
        {trial.index: trial.id for trial in pending},
        sweep.plan.rungs,
        str(sweep.metrics_folder),
        sweep.group,
    )
    sweep.metrics_folder.mkdir(parents=True, exist_ok=True)
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, context=context), _resources(sweep.group)
    )
    scratch = tempfile.mkdtemp(prefix="heliostat-tune-")  # what Tune writes is never read
    tuner = tune.Tuner(
        trainable,
        param_space={"index": tune.grid_search([trial.index for trial in pending])},
        tune_config=tune.TuneConfig(
            scheduler=keeper,
            reuse_actors=True,
            max_concurrent_trials=sweep.concurrency,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            stop=keeper.stopper,
            failure_config=tune.FailureConfig(max_failures=sweep.plan.job.spec.limits.failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(group: GroupSpec) -> tune.PlacementGroupFactory:
    """One bundle for a trial alone; for several workers an empty one and one a worker."""
    workers = [group.bundle] * group.size
    return tune.PlacementGroupFactory(workers if group.size == 1 else [{}, *workers])


class _Stopper(tune.Stopper):  # type: ignore[misc]
    """Ends the whole sweep when its keeper says so."""

    def __init__(self, keeper: _Keeper) -> None:
        self._keeper = keeper

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()  # Tune pickles its settings; nobody ever reads that file

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A single trial is never stopped here."""
        return False

    def stop_all(self) -> bool:
        """See `tune.Stopper`."""
        return self._keeper.should_end()


class _Keeper(FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler: writes the ledger, takes the rung decisions, keeps the best model.

    Its decisions follow from the ledger alone; Tune never saves them.
    """

    def __init__(self, sweep: Sweep, pending: Sequence[Trial]) -> None:
        super().__init__()
        self.sweep = sweep
        self.by_index = {trial.index: trial for trial in pending}
        self.num_pending, self.num_failed, self.num_ended = len(pending), 0, 0
        self.ended: set[int] = set()
        self.stopper = _Stopper(self)
        self.why_ended = ""
        self.moved = time.time()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()  # see _Stopper

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trial has reached a rung."""
        self.moved = time.time()
        ours = self.by_index[trial.config["index"]]
        rung = result["rung"]
        if rung is None:
            return str(TrialScheduler.CONTINUE)
        score = result["score"]
        metrics = json.loads(result["metrics"])
        self.sweep.ledger.rung(ours, rung, result["progress"], metrics, score)
        scheduler = self.sweep.tune_spec.scheduler
        assert isinstance(scheduler, AshaScheduler)
        scores = list(self.sweep.ledger.rung_scores(rung))
        if goes_on(score, scores, scheduler.reduction_factor, self.sweep.goal):
            return str(TrialScheduler.CONTINUE)
        self._end(ours, CUT, result)
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended by itself."""
        ours = self.by_index[trial.config["index"]]
        if ours.index in self.ended:
            return  # cut a moment ago
        status = result.get("status", FAILED)
        if status == FINISHED and not math.isfinite(result["score"]):
            status = FAILED
            metric = self.sweep.plan.job.spec.objective_metric
            result = result | {"error": f"its {metric} is not finite"}
        self._end(ours, status, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process has died more often than `limits.failures`."""
        ours = self.by_index[trial.config["index"]]
        result = {"error": "its process died", "progress": 0, "score": None, "metrics": "{}"}
        self._end(ours, FAILED, result | {"trial_seconds": 0.0})

    def should_end(self) -> bool:
        """Whether the sweep must end before its last trial, and why."""
        sweep = self.sweep
        allowed = max(1, math.ceil(sweep.plan.job.spec.limits.failed_trials * self.num_pending))
        if self.num_failed > allowed:
            self.why_ended = "failures"
        elif sweep.deadline is not None and time.monotonic() > sweep.deadline:
            self.why_ended = "time"
        elif sweep.stop_requested():
            self.why_ended = "stop"
        elif time.time() - self._last_moved() > self._stall_seconds:
            self.why_ended = "stall"
        return bool(self.why_ended)

    def check_end(self) -> None:
        """Raise why the sweep ended early, if it did."""
        if self.why_ended == "stop":
            raise StoppedError(f"stopped after {self.num_ended} of {self.num_pending} trials")
        if self.why_ended == "stall":
            raise InterruptedRunError(
                f"no trial has moved for {self._stall_seconds / 60:g} minutes "
                f"(`limits.stall_minutes`): {placement_sentence(self.sweep.group)}"
            )
        if self.why_ended == "time":
            raise InterruptedRunError(f"the time limit `{self.sweep.limit}` is over")
        if self.num_failed and (self.why_ended or self.num_failed == self.num_pending):
            last = next(r for r in reversed(self.sweep.ledger.records.values()) if r.error)
            raise TrainError(
                f"{self.num_failed} of {self.num_pending} trials failed (`limits.failed_trials`); "
                f"the last one: {last.error}"
            )
        if self.num_ended < self.num_pending:
            raise InterruptedRunError(f"only {self.num_ended} of {self.num_pending} trials ended")

    @property
    def _stall_seconds(self) -> float:
        return self.sweep.plan.job.spec.limits.stall_minutes * 60

    def _last_moved(self) -> float:
        """When a trial last reported here, or wrote to its own metric file."""
        if time.time() - self.moved > self._stall_seconds:
            files = self.sweep.metrics_folder.glob("trial-*.jsonl")
            self.moved = max([self.moved, *(path.stat().st_mtime for path in files)])
        return self.moved

    def _end(self, trial: Trial, status: str, result: Mapping[str, Any]) -> None:
        before = self.sweep.best()
        self.moved = time.time()
        self.ended.add(trial.index)
        self.num_ended += 1
        self.num_failed += status == FAILED
        self.sweep.ledger.final(
            trial,
            status,
            result["progress"],
            result["score"],
            json.loads(result["metrics"]),
            result["trial_seconds"],
            result["error"],
        )
        best = self.sweep.best()
        if before is not None and best is not None and before.id != best.id:
            remove_folder(self.sweep.models / before.id, DESCRIPTION)
        if best is None or best.id != trial.id:
            remove_folder(self.sweep.models / trial.id, DESCRIPTION)
        self.sweep.view.trial_ended(self.sweep.ledger.records[trial.id], best, self.num_ended)


def _best_of(records: Sequence[TrialRecord], goal: Goal) -> TrialRecord:
    best = records[0]
    for record in records[1:]:
        assert record.score is not None and best.score is not None
        if better(record.score, best.score, goal):
            best = record
    return best
