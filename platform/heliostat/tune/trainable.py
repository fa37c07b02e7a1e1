"""A trial as Ray Tune sees it: a warm actor that trains up to the next rung and reports.

Epochs between rungs go to the trial's own metric file, not to Tune.
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
from heliostat.train.control import NoControl
from heliostat.train.events import Event, Failed, Finished, Stepped, Validated
from heliostat.train.job import train_events
from heliostat.train.worker import train_worker
from heliostat.train.workers import ActorGroup, GroupSpec

POLL_SECONDS = 0.05
FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share: their assignments by index, and where they write."""

    assignments: Mapping[int, Assignment]
    trial_ids: Mapping[int, str]
    rungs: tuple[int, ...]
    metrics_folder: str
    group: GroupSpec


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains one configuration after another in the same process."""

    def setup(self, config: dict[str, Any], context: Any = None) -> None:
        """Ray Tune's constructor."""
        self._context: TrialContext = context
        self._begin(config["index"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next configuration without a new process."""
        self._events.close()
        self._begin(new_config["index"])
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung or to the end."""
        result: dict[str, Any] = {"done": True, "status": "finished", "error": None, "rung": None}
        try:
            result |= self._advance()
        except HeliostatError as error:
            result |= {"status": "failed", "error": str(error)}
        except Exception as error:  # Tune would tell its type but not its text
            result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        result |= {
            "score": self._score,
            "progress": self._progress,
            "metrics": json.dumps(finite(self._metrics)),  # Tune would flatten a mapping
            "trial_seconds": time.monotonic() - self._started,
        }
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Checkpoints of trials are ours, not Tune's."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def cleanup(self) -> None:
        """End what is still open."""
        self._events.close()

    def _begin(self, index: int) -> None:
        context = self._context
        assignment = context.assignments[index]
        self._trial = context.trial_ids[index]
        self._events = (
            train_events(assignment, SoloWorld(), NoControl())
            if context.group.size == 1
            else _group_events(assignment, context.group)
        )
        self._score = float("nan")
        self._progress = 0
        self._metrics: Mapping[str, Any] = {}
        self._rungs = list(context.rungs)
        self._started = time.monotonic()
        path = as_path(context.metrics_folder) / f"trial-{self._trial}.jsonl"
        path.unlink(missing_ok=True)  # of an attempt that was cut off
        self._curve, self._rows, self._flushed = Lines(path), "", time.monotonic()

    def _advance(self) -> dict[str, Any]:
        try:
            return self._to_next_rung()
        finally:
            self._flush()

    def _to_next_rung(self) -> dict[str, Any]:
        for event in self._events:
            self._keep(event)
            if isinstance(event, Failed):
                return {"status": "failed", "error": event.message}
            if isinstance(event, Finished):
                self._score = event.score
                self._metrics = event.metrics.get("validation", {})
                return {}
            if isinstance(event, Validated):
                self._score, self._progress = event.score, event.progress
                self._metrics = event.metrics
                reached = [rung for rung in self._rungs if rung <= event.progress]
                if reached:
                    self._rungs = [rung for rung in self._rungs if rung > event.progress]
                    return {"done": False, "status": "running", "rung": reached[-1]}
        return {"status": "failed", "error": "the trial ended without a result"}

    def _keep(self, event: Event) -> None:
        """Append to the trial's own metric file."""
        if not isinstance(event, (Stepped, Validated)):
            return
        row = {"time": time.time(), "trial": self._trial} | event.row()
        self._rows += json.dumps(finite(row)) + "\n"
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._curve.append(self._rows)
        self._rows, self._flushed = "", time.monotonic()


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
