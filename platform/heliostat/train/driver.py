"""Drive a worker group through one training: pass events on, and see that it always ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from heliostat.errors import (
    FAILED,
    INTERRUPTED,
    WRONG_INPUT,
    HeliostatError,
    InterruptedRunError,
    StoppedError,
    TrainError,
    UserError,
)
from heliostat.spec.job import JobSpec
from heliostat.spec.scale import ElasticWorkers
from heliostat.train.assignment import Assignment
from heliostat.train.channel import Work
from heliostat.train.events import Event, Failed, Finished, Stopped, Stuck
from heliostat.train.worker import train_after_folds, train_own_folds, train_worker
from heliostat.train.workers import ActorGroup, GroupSpec, Poll, WorkerGroup

POLL_SECONDS = 0.05
STOP_GRACE_SECONDS = 60.0


class Sink(Protocol):
    """Where a training's events go."""

    def event(self, event: Event, when: float) -> None:
        """One event, at `when` seconds since the epoch."""

    def note(self, text: str) -> None:
        """Something a person should read."""


@dataclass(frozen=True)
class Watch:
    """When to give up, and who may ask for a stop."""

    stall_seconds: float
    deadline: float | None
    limit: str
    stop_requested: Callable[[], bool]


def build_group(spec: JobSpec, storage: str, num_at_once: int = 1) -> WorkerGroup:
    """The worker group of a job: Ray Train for several workers, plain actors for one; or for as
    many as train folds at once.
    """
    scale, limits = spec.scale, spec.limits
    group = GroupSpec(
        size=scale.num_workers,
        cpu=scale.resources.cpu,
        gpu=scale.resources.gpu,
        memory_bytes=scale.resources.memory,
        family=spec.model.family,
        failures=limits.failures,
        start_seconds=limits.start_minutes * 60,
        min_size=scale.workers.min if isinstance(scale.workers, ElasticWorkers) else None,
        unit=scale.parallel.product,
    )
    if group.size == 1:
        return ActorGroup(replace(group, size=num_at_once))
    from heliostat.train.ray_train import RayTrainGroup  # more than a second of import

    return RayTrainGroup(group, storage)


def drive(group: WorkerGroup, assignment: Assignment, sink: Sink, watch: Watch) -> Finished:
    """Run the assignment on a started group and wait for its end.

    Raises:
        StoppedError: it was asked to stop, and has committed a checkpoint.
        InterruptedRunError: it stalled, ran out of time, or lost its workers too often.
        TrainError, UserError: training told why it cannot go on.
    """
    try:
        return _Driver(group, sink, watch).finished(train_worker, assignment)
    finally:
        group.stop()


def drive_folds(group: WorkerGroup, assignment: Assignment, sink: Sink, watch: Watch) -> Finished:
    """As `drive`, where every worker of the group trains folds of its own, and one of them the
    model at last.
    """
    try:
        driver = _Driver(group, sink, watch)
        driver.run(train_own_folds, assignment)
        return driver.finished(train_after_folds, assignment)
    finally:
        group.stop()


class _Driver:
    def __init__(self, group: WorkerGroup, sink: Sink, watch: Watch) -> None:
        self.group, self.sink, self.watch = group, sink, watch
        self.result: Finished | None = None
        self.stopped: Stopped | None = None
        self.moved = time.monotonic()
        self.restarts = 0
        self.stop_asked = 0.0

    def finished(self, work: Work, assignment: Assignment) -> Finished:
        self.run(work, assignment)
        if self.result is None:
            raise InterruptedRunError("the workers ended without a result")
        return self.result

    def run(self, work: Work, assignment: Assignment) -> None:
        """Until all workers have ended: one that has stopped may be ahead of others."""
        self.group.run(work, assignment)
        while True:
            poll = self.group.poll()
            self._pass_on(poll)
            if poll.state == "finished" and self.stopped is not None:
                raise StoppedError(f"stopped at step {self.stopped.step}")
            if poll.state == "finished":
                return
            if poll.state == "failed":
                raise InterruptedRunError(
                    f"the workers failed {poll.restarts + 1} times, "
                    f"the last time with: {poll.error}"
                )
            self._check_time()
            time.sleep(POLL_SECONDS)

    def _pass_on(self, poll: Poll) -> None:
        if poll.restarts > self.restarts:
            self.restarts, self.moved = poll.restarts, time.monotonic()
            reason = f" ({poll.error})" if poll.error else ""
            told = f"a worker was lost{reason}; the workers start again"
            if poll.size is not None:
                cause = told if reason else "the cluster has changed; the workers start again"
                told = f"{cause}, now {poll.size}"
            self.sink.note(f"{told}, restart {poll.restarts}")
        for _, event, when in poll.messages:
            if isinstance(event, Stuck):
                self.sink.note(str(event))
                continue
            self.moved = time.monotonic()
            if isinstance(event, Failed):
                raise _error_of(event)
            if isinstance(event, Finished):
                self.result = event
            self.sink.event(event, when)
            if isinstance(event, Stopped):
                self.stopped = event

    def _check_time(self) -> None:
        now = time.monotonic()
        if self.watch.deadline is not None and now > self.watch.deadline:
            raise InterruptedRunError(f"the time limit `{self.watch.limit}` is over")
        if now - self.moved > self.watch.stall_seconds:
            raise InterruptedRunError(
                f"nothing has moved for {self.watch.stall_seconds / 60:g} minutes "
                "(`limits.stall_minutes`): a worker hangs, or a step takes longer than that"
            )
        if self.watch.stop_requested():
            if not self.stop_asked:
                self.stop_asked = now
                self.group.ask_stop()
            elif now - self.stop_asked > STOP_GRACE_SECONDS:
                raise StoppedError("stopped; the workers did not reach another checkpoint in time")


def _error_of(event: Failed) -> HeliostatError:
    kinds: dict[int, type[HeliostatError]] = {
        FAILED: TrainError,
        WRONG_INPUT: UserError,
        INTERRUPTED: InterruptedRunError,
    }
    return kinds.get(event.exit_status, TrainError)(event.message)
