"""A lane as Ray Tune sees it: a warm actor that carries out one order after another.

What happens between rungs goes to the trial's own metric file, not to Tune.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from heliostat.errors import HeliostatError
from heliostat.parallel.world import SoloWorld
from heliostat.storage.files import finite
from heliostat.storage.lines import Lines
from heliostat.storage.objects import as_path
from heliostat.train.assignment import Assignment
from heliostat.train.control import ClockControl
from heliostat.train.events import Event, Failed, Finished, Resumed, Stepped, Stopped, Validated
from heliostat.train.job import train_events
from heliostat.train.worker import train_worker
from heliostat.train.workers import ActorGroup, GroupSpec
from heliostat.tune.order import Answer, Order, Task, answers_text
from heliostat.tune.work import FAILED, FINISHED, PAUSED

POLL_SECONDS = 0.05
FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class LaneContext:
    """What all lanes of a sweep share."""

    metrics_folder: str
    group: GroupSpec


class Lane(tune.Trainable):  # type: ignore[misc]
    """Carries out orders in the same process."""

    def setup(self, config: dict[str, Any], context: Any = None) -> None:
        """Ray Tune's constructor."""
        self._context: LaneContext = context
        self._begin(config["order"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next order without a new process."""
        self.cleanup()
        self._begin(new_config["order"])
        return True

    def step(self) -> dict[str, Any]:
        """Work to the next rung or to the end."""
        answers = [course.advance() for course in self._courses]
        waits = [
            answer.status == PAUSED and course.waits
            for answer, course in zip(answers, self._courses, strict=True)
        ]
        return {"done": not all(waits), "answers": answers_text(answers)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Checkpoints of trials are ours, not Tune's."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def cleanup(self) -> None:
        """End what is still open."""
        for course in self._courses:
            course.close()

    def _begin(self, order: Order) -> None:
        self._courses = [Course(task, self._context) for task in order.tasks]


class Course:
    """One task on its way."""

    def __init__(self, task: Task, context: LaneContext) -> None:
        self._task = task
        self._events = task_events(task.assignment, context.group)
        self._score, self._progress = float("nan"), 0
        self._metrics: Mapping[str, Any] = {}
        self._rungs = list(task.rungs)
        self._curve = Curve(context.metrics_folder, task)

    @property
    def waits(self) -> bool:
        """Whether it stays here until it hears of its rung's verdict."""
        return bool(self._task.rungs)

    def advance(self) -> Answer:
        """Train to where it pauses, or to the end."""
        started = time.monotonic()
        try:
            answer = self._to_next_rung()
        except HeliostatError as error:
            answer = {"status": FAILED, "error": str(error)}
        except Exception as error:  # Tune would tell its type but not its text
            answer = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
            answer["out_of_memory"] = "OutOfMemory" in type(error).__name__
        finally:
            self._curve.flush()
        told: dict[str, Any] = {"score": self._score, "progress": self._progress}
        told["metrics"] = self._metrics
        return Answer(**(told | answer), seconds=time.monotonic() - started)

    def close(self) -> None:
        """End what is still open."""
        self._events.close()

    def _to_next_rung(self) -> dict[str, Any]:
        for event in self._events:
            self._curve.keep(event)
            if isinstance(event, Failed):
                return {"status": FAILED, "error": event.message}
            if isinstance(event, Finished):
                return _finished(event)
            if isinstance(event, Stopped):
                return {"status": PAUSED}
            if isinstance(event, Validated):
                self._score, self._progress = event.score, event.progress
                self._metrics = event.metrics
                if self._rungs and self._rungs[0] <= event.progress:
                    self._rungs.pop(0)
                    return {"status": PAUSED}
        return {"status": FAILED, "error": "the trial ended without a result"}


def _finished(event: Finished) -> dict[str, Any]:
    return {
        "status": FINISHED,
        "score": event.score,
        "progress": event.progress,
        "metrics": event.metrics.get("validation", {}),
        "uncertainty": event.details.get("validation", {}).get("standard_error"),
    }


class Curve:
    """A trial's own metric file."""

    def __init__(self, folder: str, task: Task) -> None:
        self._labels: dict[str, Any] = {"trial": task.work.trial.id}
        if task.work.fold is not None:
            self._labels["fold"] = task.work.fold
        path = as_path(folder) / f"trial-{task.name}.jsonl"
        path.unlink(missing_ok=True)  # of an attempt that was cut off
        self._lines, self._text, self._flushed = Lines(path), "", time.monotonic()

    def keep(self, event: Event) -> None:
        """Append what is worth it; of a training that goes on, what came before."""
        if isinstance(event, Resumed):
            for row in event.history:
                self._add(row)
        elif isinstance(event, (Stepped, Validated)):
            self._add({"time": time.time()} | event.row())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what has come together."""
        if self._text:
            self._lines.append(self._text)
        self._text, self._flushed = "", time.monotonic()

    def _add(self, row: Mapping[str, Any]) -> None:
        self._text += json.dumps(finite({**row, **self._labels})) + "\n"


def task_events(assignment: Assignment, group: GroupSpec) -> Generator[Event, None, None]:
    """The events of a training in this process, or in several beside it."""
    if group.size > 1:
        return _group_events(assignment, group)
    every = assignment.spec.scale.checkpoint.every_minutes
    return train_events(assignment, SoloWorld(), ClockControl(every, lambda: False))


def _group_events(assignment: Assignment, spec: GroupSpec) -> Generator[Event, None, None]:
    """The events of a trial with several workers, which sit in Tune's own placement group."""
    # Ray leaves the empty bundle of the trial's own actor out of the group.
    group = ActorGroup(spec, ray.util.get_current_placement_group(), first_bundle=0)
    group.start()
    try:
        group.run(train_worker, assignment)
        while True:
            poll = group.poll()
            yield from (event for _, event, _ in poll.messages)
            if poll.state == "failed":
                yield Failed(poll.error, 1)
            if poll.state in ("finished", "failed"):
                return
            time.sleep(POLL_SECONDS)
    finally:
        group.stop()
