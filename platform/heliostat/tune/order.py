"""What a lane is told to do, and what it answers. Plain values, safe to send."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliostat.plan.counts import SIDES
from heliostat.train.assignment import Assignment
from heliostat.tune.work import Work


@dataclass(frozen=True)
class Task:
    """A work and its training. `rungs` are where it waits, in the lane, for a word to go on."""

    work: Work
    assignment: Assignment
    rungs: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The trial, and which of its folds."""
        fold = self.work.fold
        return self.work.trial.id + ("" if fold is None else f"-fold-{fold}")


@dataclass(frozen=True)
class Scoring:
    """A finished trial's model, to be scored on some sides."""

    trial: str
    assignment: Assignment
    model_folder: str
    sides: tuple[str, ...] = SIDES


@dataclass(frozen=True)
class Order:
    """Tasks for one lane: a single one, several to be trained as one stacked model, or none but a
    model to be scored.
    """

    number: int
    tasks: tuple[Task, ...]
    scoring: Scoring | None = None

    def __str__(self) -> str:
        return f"order-{self.number}"  # Ray Tune makes names of it

    __repr__ = __str__


@dataclass(frozen=True)
class Answer:
    """What came of a task; see `Outcome`. `interrupted`: for a reason that is not the trial's own.
    Of a scoring, `metrics` by side and what is drawn.
    """

    status: str
    progress: int = 0
    score: float = float("nan")
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    uncertainty: float | None = None
    out_of_memory: bool = False
    interrupted: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


def answers_text(answers: Sequence[Answer]) -> str:
    """Answers as one text: Ray Tune would take a mapping apart."""
    return json.dumps([vars(answer) for answer in answers])


def read_answers(text: str) -> list[Answer]:
    """What `answers_text` wrote."""
    return [Answer(**value) for value in json.loads(text)]
