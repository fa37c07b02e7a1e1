"""A lane as Ray Tune sees it: a warm actor that carries out one order after another.

What happens between rungs goes to the trial's own metric file, not to Tune.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from heliostat.errors import INTERRUPTED, HeliostatError, StorageError
from heliostat.parallel.world import SoloWorld
from heliostat.storage.files import finite
from heliostat.storage.lines import Lines
from heliostat.storage.objects import as_path
from heliostat.train.artifact import load_model
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.control import ClockControl
from heliostat.train.events import Event, Failed, Finished, Resumed, Stepped, Stopped, Validated
from heliostat.train.job import train_events
from heliostat.train.scoring import final_metrics
from heliostat.train.worker import train_worker
from heliostat.train.workers import ActorGroup, GroupSpec
from heliostat.tune.order import Answer, Order, Scoring, Task, answers_text
from heliostat.tune.pause import Pause
from heliostat.tune.work import FAILED, FINISHED, PAUSED, STOPPED

POLL_SECONDS = 0.05
FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class LaneContext:
    """What all lanes of a sweep share."""

    metrics_folder: str
    group: GroupSpec
    pause: str


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
        answers = self._course.advance()
        waits = self._course.waits and answers[0].status == PAUSED
        return {"done": not waits, "answers": answers_text(answers)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Checkpoints of trials are ours, not Tune's."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def cleanup(self) -> None:
        """End what is still open."""
        self._course.close()

    def _begin(self, order: Order) -> None:
        trains = order.scoring is None
        self._course = Course(order, self._context) if trains else ScoringCourse(order)


class ScoringCourse:
    """When no trial is left: a process that has just trained scores the best model."""

    waits = False

    def __init__(self, order: Order) -> None:
        assert order.scoring is not None
        self._scoring = order.scoring

    def advance(self) -> list[Answer]:
        """See `Course`."""
        metrics, details = score(self._scoring)
        return [Answer(FINISHED, metrics=metrics, details=details)]

    def close(self) -> None:
        """See `Course`."""


def score(scoring: Scoring) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Metrics of a model on some sides, and what is drawn of them."""
    assignment = scoring.assignment
    predictor = load_model(as_path(scoring.model_folder)).predictor
    data = open_data(assignment)
    return final_metrics(assignment.spec, data, predictor, SoloWorld(), scoring.sides)


class Course:
    """An order of trainings on its way."""

    def __init__(self, order: Order, context: LaneContext) -> None:
        pause = Pause(context.pause)
        self._tellers = [Teller(task, context.metrics_folder, pause) for task in order.tasks]
        self._events = order_events(order, context.group, pause)
        self.waits = bool(order.tasks[0].rungs)

    def advance(self) -> list[Answer]:
        """Train to where it pauses, or to the end."""
        started = time.monotonic()
        trouble: dict[str, Any] = {"error": "the trial ended without a result"}
        try:
            self._to_next_pause()
        except HeliostatError as error:
            trouble = {
                "error": str(error),
                "interrupted": error.exit_status == INTERRUPTED,
                "out_of_memory": _is_out_of_memory(error.__cause__),
            }
        except Exception as error:  # Tune would tell its type but not its text
            text = f"{type(error).__name__}: {error}"
            trouble = {"error": text, "out_of_memory": _is_out_of_memory(error)}
        # Time that several share is shared among them.
        seconds = (time.monotonic() - started) / len(self._tellers)
        return [teller.answer(seconds, trouble) for teller in self._tellers]

    def close(self) -> None:
        """End what is still open."""
        self._events.close()

    def _to_next_pause(self) -> None:
        for place, event in self._events:
            if self._tellers[place].hear(event) and self.waits:
                return


def _is_out_of_memory(error: BaseException | None) -> bool:
    return "OutOfMemory" in type(error).__name__  # torch's, or Ray's: neither need be imported


class Teller:
    """Hears what one task's training tells, keeps its curve, and sums it up."""

    def __init__(self, task: Task, metrics_folder: str, pause: Pause) -> None:
        self._curve, self._pause = Curve(metrics_folder, task), pause
        self._rungs = list(task.rungs)
        self._known: dict[str, Any] = {}
        self._end: dict[str, Any] | None = None

    def hear(self, event: Event) -> bool:
        """Take an event; whether the task has come to a rung."""
        self._curve.keep(event)
        if isinstance(event, Failed):
            interrupted = event.exit_status == INTERRUPTED
            self._end = {"status": FAILED, "error": event.message, "interrupted": interrupted}
        elif isinstance(event, Finished):
            self._end = _finished(event)
        elif isinstance(event, Stopped):
            self._end = {"status": STOPPED if self._pause.is_wanted() else PAUSED}
        elif isinstance(event, Validated):
            self._known = {
                "score": event.score, "progress": event.progress, "metrics": event.metrics
            }  # fmt: skip
            if self._rungs and self._rungs[0] <= event.progress:
                self._rungs.pop(0)
                self._end = {"status": PAUSED}
                return True
        return False

    def answer(self, seconds: float, trouble: Mapping[str, Any]) -> Answer:
        """What has come of the task since the last answer."""
        try:
            self._curve.flush()
        except StorageError as error:
            self._end = {"status": FAILED, "error": str(error), "interrupted": True}
        end, self._end = self._end or {"status": FAILED, **trouble}, None
        return Answer(**(self._known | end), seconds=seconds)


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


def order_events(
    order: Order, group: GroupSpec, pause: Pause
) -> Generator[tuple[int, Event], None, None]:
    """The events of each task, by its place: of trainings in this process, or beside it."""
    assignments = [task.assignment for task in order.tasks]
    every = assignments[0].spec.scale.checkpoint.every_minutes
    control = ClockControl(every, pause.is_wanted)
    if len(assignments) > 1:
        yield from _together(assignments, control)
        return
    events = (
        _group_events(assignments[0], group, pause)
        if group.size > 1
        else train_events(assignments[0], SoloWorld(), control)
    )
    for event in events:
        yield 0, event


def _together(
    assignments: Sequence[Assignment], control: ClockControl
) -> Iterator[tuple[int, Event]]:
    """What each family has to train several trials by; it brings its own library."""
    if assignments[0].spec.model.family == "network":
        from heliostat.train.fused import train_fused

        return train_fused(assignments, control)
    from heliostat.train.ridge import train_ridges

    return train_ridges(assignments)


def _group_events(
    assignment: Assignment, spec: GroupSpec, pause: Pause
) -> Generator[Event, None, None]:
    """The events of a trial with several workers, which sit in Tune's own placement group."""
    # Ray leaves the empty bundle of the trial's own actor out of the group.
    group = ActorGroup(spec, ray.util.get_current_placement_group(), first_bundle=0)
    is_asked = False
    group.start()
    try:
        group.run(train_worker, assignment)
        while True:
            poll = group.poll()
            if pause.is_wanted() and not is_asked:
                group.ask_stop()
                is_asked = True
            yield from (event for _, event, _ in poll.messages)
            if poll.state == "failed":
                yield Failed(poll.error, 1)
            if poll.state in ("finished", "failed"):
                return
            time.sleep(POLL_SECONDS)
    finally:
        group.stop()
