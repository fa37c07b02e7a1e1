"""Ray Tune drives the lanes: it places them, starts and restarts their processes, and hands them
the orders that the keeper gives. It decides nothing, and nothing that it saves is read back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from heliostat.errors import StorageError, TrainError
from heliostat.train.workers import GroupSpec
from heliostat.tune.keeper import Keeper
from heliostat.tune.lane import Lane, LaneContext
from heliostat.tune.ledger import TrialRecord
from heliostat.tune.order import read_answers
from heliostat.tune.sweep import Sweep

OF_RAY = ("RAY_", "TUNE_", "NCCL_", "TORCHFT_")
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshot is never read back
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # for a lane that does not end by itself: it is killed
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_sweep(sweep: Sweep) -> tuple[TrialRecord, Keeper]:
    """Run every trial that the ledger does not know to be done; the best one of all.

    Raises:
        StoppedError, InterruptedRunError: asked to stop, or out of time; the ledger keeps what
            is done.
        TrainError: more trials failed than `limits.failed_trials` allows, or all did.
    """
    keeper = Keeper(sweep)
    first = keeper.next_order()
    if first is not None:
        _run_tune(sweep, keeper, [first])
        keeper.check_end()
    if keeper.best is None:
        raise TrainError(f"no trial has a finite {sweep.plan.job.spec.objective_metric}")
    return keeper.best, keeper


def _run_tune(sweep: Sweep, keeper: Keeper, begun: list[Any]) -> None:
    os.environ.update(ENVIRONMENT)
    # Tune would copy credentials of object stores, too, into the runtime environment of its actors,
    # which Ray writes to a log in clear. A node's processes have the credentials of their node.
    class_cache.ENV_VARS_TO_PROPAGATE -= {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith(OF_RAY)
    }
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sweep.concurrency)
    context = LaneContext(str(sweep.metrics_folder), sweep.group, str(sweep.pause.place))
    sweep.metrics_folder.mkdir(parents=True, exist_ok=True)
    trainable = tune.with_resources(
        tune.with_parameters(Lane, context=context), _resources(sweep.group)
    )
    scratch = tempfile.mkdtemp(prefix="heliostat-tune-")  # what Tune writes is never read
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Orders(keeper, begun),
            scheduler=_Scheduler(keeper),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            stop=_Stopper(keeper),
            failure_config=tune.FailureConfig(max_failures=0),  # the keeper counts them
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        sweep.pause.forget()
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(group: GroupSpec) -> tune.PlacementGroupFactory:
    """One bundle for a trial alone; for several workers an empty one and one a worker."""
    workers = [group.bundle] * group.size
    return tune.PlacementGroupFactory(workers if group.size == 1 else [{}, *workers])


class _Unpickled:
    """Tune pickles its settings into a file that nobody ever reads."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Orders(_Unpickled, Searcher):  # type: ignore[misc]
    """Ray Tune's searcher: what it takes for a trial's configuration is an order."""

    def __init__(self, keeper: Keeper, begun: list[Any]) -> None:
        super().__init__()
        self._keeper, self._begun = keeper, begun

    def suggest(self, trial_id: str) -> Any:
        """See `Searcher`."""
        order = None
        with _told_to(self._keeper):
            order = self._begun.pop() if self._begun else self._keeper.next_order()
        if order is not None:
            return {"order": order}
        return Searcher.FINISHED if self._keeper.is_over else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See `Searcher`: the scheduler has heard it."""

    def save(self, checkpoint_path: str) -> None:
        """See `Searcher`: the ledger is what lasts."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Stopper(_Unpickled, tune.Stopper):  # type: ignore[misc]
    """Ends the whole sweep when its keeper says so."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A single trial is never stopped here."""
        return False

    def stop_all(self) -> bool:
        """See `tune.Stopper`."""
        return self._keeper.should_end()


class _Scheduler(_Unpickled, FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler: passes answers on to the keeper."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__()
        self._keeper = keeper

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first that waits, among the living: Tune's own looks through all that ever were, and
        so does its loop at each step, until they are taken off its list.
        """
        every = tune_controller.get_trials()
        while every and every[0].is_finished():
            del every[0]
        living = tune_controller.get_live_trials()
        self._keeper.placed = {_number(t) for t in living if t.status == "RUNNING"}
        waiting = [t for t in living if t.status in ("PENDING", "PAUSED")]
        return min(waiting, key=_number, default=None)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A lane waits at a rung."""
        goes_on = False
        with _told_to(self._keeper):
            goes_on = self._keeper.paused(_number(trial), read_answers(result["answers"]))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """An order has come to its end."""
        with _told_to(self._keeper):
            self._keeper.answered(_number(trial), read_answers(result["answers"]))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A lane's process has died."""
        error = trial.get_error()
        cause = getattr(error, "cause", error)
        no_memory = isinstance(cause, ray.exceptions.OutOfMemoryError)
        why = "memory ran out on its node" if no_memory else "its process died"
        with _told_to(self._keeper):
            self._keeper.died(_number(trial), why, no_memory)


@contextmanager
def _told_to(keeper: Keeper) -> Iterator[None]:
    """What keeps the ledger from being written ends the sweep, in its own time."""
    try:
        yield
    except StorageError as error:
        keeper.interrupt(str(error))


def _number(trial: Any) -> int:
    return int(trial.config["order"].number)
