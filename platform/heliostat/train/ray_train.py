"""The worker group of training jobs with several workers: Ray Train.

Ray Train places the workers, restarts the group when one dies, and follows pre-emptions. Our
ranks meet by themselves, so its controller loads neither torch nor XGBoost; checkpoints and
messages are ours, so its own snapshot is never read back: one run name an attempt.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import suppress
from typing import Any, Literal

import ray
import ray.train
from ray import cloudpickle
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.context import (
    get_train_context as get_internal_train_context,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from heliostat.catalog.places import place_of
from heliostat.errors import PlacementError
from heliostat.train.channel import ENDED, Mailbox, Seat, Work
from heliostat.train.line import Exchange, Line
from heliostat.train.replicas import WholeReplicas
from heliostat.train.worker import preload
from heliostat.train.workers import (
    SILENT_SECONDS,
    GroupSpec,
    Poll,
    free_address,
    own_place,
    placement_sentence,
    silence,
    start_sentence,
)

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
NODE_ID_LABEL = "ray.io/node-id"
WAIT_SECONDS = 0.1
ELASTIC_START_SECONDS = 30.0
RESIZE_SECONDS = 20.0  # how often an elastic group looks for room to grow
GRACE_SECONDS = 60.0
ABORT_SECONDS = 15.0


class RayTrainGroup:
    """See `WorkerGroup`. `storage` is a folder for the little that Ray Train writes itself."""

    def __init__(self, spec: GroupSpec, storage: str) -> None:
        self.spec, self._storage = spec, storage
        self._mailbox = Mailbox()
        self._exchange: Exchange | None = None
        self._trainer: _LeanTrainer | None = None
        self._thread: threading.Thread | None = None
        self._error = ""
        self._seen: set[str] = set()
        self._up = False
        self._size: int | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """See `WorkerGroup`."""
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # Ray Train tries twice and then ends by itself, so that its thread is never left in Ray. An
        # elastic group tries again and again: what it counts on may have gone a moment ago.
        attempt = self.spec.start_seconds / 2
        if self.spec.min_size is not None:
            attempt = min(attempt, ELASTIC_START_SECONDS)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(attempt)
        self._deadline = time.monotonic() + self.spec.start_seconds + GRACE_SECONDS
        self._exchange = Exchange(self._mailbox)
        place = place_of(self._storage)
        trainer = _LeanTrainer(
            self.spec.unit,
            _ray_train_worker,
            train_loop_config={"line": self._exchange.address, "family": self.spec.family},
            scaling_config=ScalingConfig(
                num_workers=self._num_workers,
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
                use_gpu=self.spec.gpu > 0,
                resources_per_worker=self.spec.bundle,
            ),
            run_config=RunConfig(
                name=f"attempt-{uuid.uuid4().hex[:12]}",
                storage_path=place.path,
                storage_filesystem=place.filesystem if "://" in self._storage else None,
                failure_config=FailureConfig(
                    max_failures=self.spec.failures,
                    controller_failure_limit=int(self.spec.start_seconds / attempt) - 1,
                ),
            ),
        )
        self._trainer = trainer
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    @property
    def _num_workers(self) -> int | tuple[int, int]:
        if self.spec.min_size is None:
            return self.spec.size
        return self.spec.min_size, self.spec.size

    def run(self, work: Work, payload: Any) -> None:
        """See `WorkerGroup`."""
        self._mailbox.put_work(cloudpickle.dumps((work, payload)))

    def poll(self) -> Poll:
        """See `WorkerGroup`."""
        assert self._thread is not None
        alive = self._thread.is_alive()  # before the messages, which come first
        messages = []
        for rank, message, when in self._mailbox.take():
            if isinstance(message, _Up):
                self._up = True
                self._seen.add(message.attempt)
                self._size = message.size if self.spec.min_size is not None else None
            else:
                messages.append((rank, message, when))
        restarts = max(0, len(self._seen) - 1)
        if alive and not self._up and time.monotonic() > self._deadline:
            is_placed = self._exchange is not None and self._exchange.has_workers
            raise PlacementError(start_sentence(self.spec, is_placed))
        if alive:
            state: Literal["running", "starting"] = "running" if self._up else "starting"
            return Poll(tuple(messages), state, "", restarts, self._size, self._silent())
        if self._error and not self._up:
            raise PlacementError(f"{placement_sentence(self.spec)} ({self._error})")
        if self._error:
            return Poll(tuple(messages), "failed", self._error, restarts)
        return Poll(tuple(messages), "finished", restarts=restarts)

    def _silent(self) -> str:
        if self._exchange is None or not self._up:
            return ""
        return "; ".join(silence(*wait) for wait in self._exchange.silent(SILENT_SECONDS))

    def ask_stop(self) -> None:
        """See `WorkerGroup`."""
        self._mailbox.ask_stop()

    def stop(self) -> None:
        """See `WorkerGroup`. Workers that came back all the same would find no work, and end."""
        if self._thread is None:
            return
        if self._thread.is_alive():
            with suppress(ray.exceptions.RayError):  # of a cluster that is gone
                self._end_all()
            self._thread.join(timeout=GRACE_SECONDS)
        if self._exchange is not None:
            self._exchange.close()
        self._thread = None

    def _end_all(self) -> None:
        """Ray Train gives the places back itself, unless it hangs."""
        controller = self._trainer and self._trainer.controller
        if controller is not None:
            controller.abort.remote()
        workers = self._mailbox.end(cloudpickle.dumps(ENDED))
        for actor in workers:
            ray.kill(cloudpickle.loads(actor))
        if controller is not None and self._thread is not None:
            self._thread.join(timeout=ABORT_SECONDS)
            ray.kill(controller)

    def _fit(self, trainer: DataParallelTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:  # whatever Ray Train raises is this group's failure
            lines = [line for line in str(error).split("\n") if line.strip()]
            self._error = lines[-1].strip() if lines else type(error).__name__


class _LeanTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train without two helpers of its own, each a process on the way to the first step:
    one that hands out data sets, which we do not pass, and one that removes the placement
    groups of nested trials, which we never nest. An elastic group grows and shrinks by `unit`
    workers. `controller` is Ray Train's own actor, which can be ended: it would else bring back
    the workers that are.
    """

    def __init__(self, unit: int, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._unit = unit
        self.controller: Any = None

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = WholeReplicas(self.scaling_config, self._unit)
        quiet = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0"}
        actor = ray.remote(
            num_cpus=0,
            label_selector={NODE_ID_LABEL: ray.get_runtime_context().get_node_id()},
            runtime_env={"env_vars": quiet | get_env_vars_to_propagate()},
        )(TrainController)
        self.controller = actor.remote(**parts)
        # In a thread of the group's own, which may wait: who stops the group ends the controller.
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, left_out)]


class _Up:
    """A message: this attempt's workers are up, so many of them."""

    def __init__(self, attempt: str, size: int) -> None:
        self.attempt, self.size = attempt, size


def _ray_train_worker(config: dict[str, Any]) -> None:
    """Runs on each of Ray Train's workers: meet, wait for work, do it."""
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    line = Line(config["line"])
    line.register(rank, own_place())
    preload(config["family"])
    meeting = (free_address(), uuid.uuid4().hex) if rank == 0 else None
    address, attempt = broadcast_from_rank_zero(meeting)
    # Each rank says so itself, before it works: an early error of one ends the others at once.
    line.send([(rank, _Up(attempt, size), time.time())])
    while (offer := line.work()) is None:
        time.sleep(WAIT_SECONDS)
    if offer == ENDED:
        return
    work, payload = offer
    work(payload, Seat(rank, size, address, line, _is_reclaimed))


def _is_reclaimed() -> bool:
    """Whether a node of this group is about to be taken away. Ray Train's public question is a
    barrier for all ranks; ours is asked where they sum their losses anyway.
    """
    return get_internal_train_context().preemption_context.preemption_info is not None
