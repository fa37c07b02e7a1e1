"""Drive a worker group through one training: pass events on, and see that it always ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray

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
NO_CHECKPOINT_GRACE_SECONDS = 3.0  # of a model that has none: it may just be done
SILENT_GRACE_SECONDS = 5.0  # where a worker does not even answer
ANSWER_SECONDS = 0.5


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

    def reason(self) -> HeliostatError | None:
        """Why to end now: time is over, or a stop is wanted.

        Raises:
            InterruptedRunError: at once: the cluster is lost, or the run is another process's.
        """
        if self.stop_requested():
            return StoppedError("stopped")
        if self.deadline is not None and time.monotonic() > self.deadline:
            return InterruptedRunError(f"the time limit `{self.limit}` is over")
        return None

    def answer_of(self, reference: Any, what: str) -> Any:
        """What a task has given; `what` it is for.

        Raises:
            StoppedError, InterruptedRunError: a stop is wanted, time is over, or nothing came of
                it for as long as nothing may.
        """
        started = time.monotonic()
        while not ray.wait([reference], timeout=ANSWER_SECONDS)[0]:
            if reason := self.reason():
                raise reason
            if time.monotonic() - started > self.stall_seconds:
                raise InterruptedRunError(
                    f"{what} has not ended for {self.stall_seconds / 60:g} minutes "
                    "(`limits.stall_minutes`): its process hangs, or is stopped"
                )
        return ray.get(reference)


def build_group(
    spec: JobSpec, storage: str, num_at_once: int = 1, is_alone: bool = False
) -> WorkerGroup:
    """The worker group of a job: Ray Train for several workers, plain actors for one, or for as
    many as train folds at once. A machine that is alone, which no node leaves or joins, has no use
    for what Ray Train adds: three processes, and seconds on the way to the first step.
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
    if is_alone and group.min_size is None:
        return ActorGroup(group)
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
        self.ending: HeliostatError | None = None
        self.ending_since = 0.0
        self.grace, self.is_silent = STOP_GRACE_SECONDS, False

    def finished(self, work: Work, assignment: Assignment) -> Finished:
        self.run(work, assignment)
        if self.result is None:
            raise InterruptedRunError("the workers ended without a result")
        return self.result

    def run(self, work: Work, assignment: Assignment) -> None:
        """Until all workers have ended: one that has stopped may be ahead of others."""
        self.group.run(work, assignment)
        if assignment.spec.model.family == "classic":
            self.grace = NO_CHECKPOINT_GRACE_SECONDS
        while True:
            poll = self.group.poll()
            self._pass_on(poll)
            if poll.state == "finished" and self.stopped is not None:
                raise self._stopped(f"stopped at step {self.stopped.step}")
            if poll.state == "finished":
                return
            if poll.state == "failed" and self.ending is not None:
                raise self._stopped(f"the workers failed on the way: {poll.error}")
            if poll.state == "failed":
                raise InterruptedRunError(
                    f"the workers failed {poll.restarts + 1} times, "
                    f"the last time with: {poll.error}"
                )
            self._check_time(poll)
            time.sleep(POLL_SECONDS)

    def _stopped(self, how: str) -> HeliostatError:
        """The end that was asked for; a time limit says so itself."""
        if self.ending is None or isinstance(self.ending, StoppedError):
            return StoppedError(how)
        return type(self.ending)(f"{self.ending}; {how}")

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

    def _check_time(self, poll: Poll) -> None:
        now = time.monotonic()
        if poll.silent and not self.is_silent:
            self.sink.note(poll.silent)
        self.is_silent = bool(poll.silent)
        if now - self.moved > self.watch.stall_seconds:
            why = poll.silent or "a worker hangs, or a step takes longer than that"
            raise InterruptedRunError(
                f"nothing has moved for {self.watch.stall_seconds / 60:g} minutes "
                f"(`limits.stall_minutes`): {why}"
            )
        reason = self.ending or self.watch.reason()
        if reason is not None and self.ending is None:
            self.ending, self.ending_since = reason, now
            self.group.ask_stop()
        grace = SILENT_GRACE_SECONDS if poll.silent else self.grace
        if self.ending is not None and now - self.ending_since > grace:
            why = poll.silent or "the workers reached no other checkpoint in time"
            raise self._stopped(f"stopped; {why}")


def _error_of(event: Failed) -> HeliostatError:
    kinds: dict[int, type[HeliostatError]] = {
        FAILED: TrainError,
        WRONG_INPUT: UserError,
        INTERRUPTED: InterruptedRunError,
    }
    return kinds.get(event.exit_status, TrainError)(event.message)
