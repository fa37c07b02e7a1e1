"""Cross-validation: one training a fold, then one on all rows that are not kept for test.

A finished fold leaves a note beside its checkpoints, so that a resumed run goes on with the
next, and the final training learns how folds ended that trained elsewhere. The final training has
no validation rows: with early stopping it is as long as the folds' best lengths on average.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heliostat.errors import ArtifactError
from heliostat.storage.files import read_json, understood, write_json
from heliostat.storage.folders import remove_folder
from heliostat.storage.lease import check_token
from heliostat.storage.objects import StorePath, as_path
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.events import (
    Event,
    Finished,
    Fold,
    Noted,
    Resumed,
    Stepped,
    Stopped,
    StoppedEarly,
    Validated,
)

Train = Callable[[Assignment], Generator[Event, None, None]]
Rows = list[Mapping[str, Any]]


def cross_validation(
    assignment: Assignment, num_folds: int, train: Train, keeps_notes: bool
) -> Generator[Event, None, None]:
    """The events of all trainings. The last one is `Finished`, whose validation metrics are
    the folds' means, or `Stopped`. One rank of all keeps notes.
    """
    history: Rows = []
    folds: list[_FoldResult] = []
    is_told = True
    for index in range(num_folds):
        part = part_of(assignment, index)
        result = _known(part)
        if result is not None:
            history += result.history
            is_told = False
        else:
            if not is_told:
                yield Resumed(0, (), tuple(history))
            is_told = True
            result = yield from _train_fold(part, Fold(index, num_folds), train, history)
            if result is None:
                return
            if keeps_notes:
                _keep(part, result)
        folds.append(result)
    if not is_told:
        yield Resumed(0, (), tuple(history))
    final = refitted(assignment, [fold.progress for fold in folds])
    for event in train(final):
        if isinstance(event, Finished):
            event = _summary(event, folds, assignment)
        yield _labelled(event, Fold(num_folds, num_folds), history)
        if isinstance(event, Stopped):
            return


def every_nth_fold(
    assignment: Assignment, num_folds: int, first: int, num_at_once: int, train: Train
) -> Generator[Event, None, None]:
    """The events of the trainings of every `num_at_once`-th fold from `first` on, that are not
    known: while others train the rest.
    """
    for index in range(first, num_folds, num_at_once):
        part = part_of(assignment, index)
        if _known(part) is None:
            result = yield from _train_fold(part, Fold(index, num_folds, num_at_once), train, [])
            if result is None:
                return
            _keep(part, result)


def refitted(assignment: Assignment, lengths: Sequence[int]) -> Assignment:
    """The final training, on the rows of all folds, given how long each of them trained."""
    final = _of_length(assignment, lengths)
    return replace(final, refit=True, place=_place(assignment, "final"))


def part_of(assignment: Assignment, fold: int) -> Assignment:
    """The training that validates on one fold."""
    return replace(
        assignment, fold=fold, final=False, model_folder=None,
        place=_place(assignment, f"fold-{fold}"),
    )  # fmt: skip


@dataclass(frozen=True)
class _FoldResult:
    metrics: Mapping[str, float]
    progress: int
    seconds: float
    history: Rows


def _train_fold(
    part: Assignment, fold: Fold, train: Train, history: Rows
) -> Generator[Event, None, _FoldResult | None]:
    """Pass the events of a fold on, less its end; None if it was stopped."""
    own: Rows = []
    for event in train(part):
        if isinstance(event, Finished):
            metrics = event.metrics["validation"]
            result = _FoldResult(metrics, event.progress, event.seconds["train"], own)
            history += own
            return result
        labelled = _labelled(event, fold, history)
        if isinstance(labelled, Resumed):
            own = [row for row in labelled.history if row.get("fold") == fold.index]
        elif isinstance(labelled, (Stepped, Validated)):
            own.append({"time": time.time()} | labelled.row())
        yield _beside_others(labelled, fold) if fold.num_at_once > 1 else labelled
        if isinstance(event, Stopped):
            return None
    return None


def _beside_others(event: Event, fold: Fold) -> Event:
    """What a fold has resumed from says nothing of the others' rows; all are put in order when the
    final training begins.
    """
    if not isinstance(event, Resumed):
        return event
    return Noted("; ".join([f"{fold}: resumed at step {event.step}", *event.skipped]))


def _labelled(event: Event, fold: Fold, history: Rows) -> Event:
    """The event with its fold; a fold's history follows that of the folds before."""
    if isinstance(event, Resumed):
        rows = tuple({**row, "fold": fold.index} for row in event.history)
        return replace(event, history=(*history, *rows))
    if isinstance(event, (Stepped, Validated, StoppedEarly)):
        return replace(event, fold=fold)
    return event


def _place(assignment: Assignment, name: str) -> RunPlace | None:
    place = assignment.place
    if place is None:
        return None
    return replace(place, checkpoints=f"{place.checkpoints}/{name}")


def _note(part: Assignment) -> StorePath | None:
    return None if part.place is None else as_path(f"{part.place.checkpoints}.json")


def _known(part: Assignment) -> _FoldResult | None:
    """The result of a fold that an earlier attempt finished with the same data and code."""
    note = _note(part)
    if note is None:
        return None
    try:
        value = read_json(note)
        with understood(note):
            if value["digests"] != part.digests:
                return None
            return _FoldResult(
                value["metrics"], value["progress"], value["seconds"], value["history"]
            )
    except ArtifactError:
        return None


def _keep(part: Assignment, result: _FoldResult) -> None:
    """Note the fold as finished; its checkpoints are not needed any more."""
    note = _note(part)
    if note is None or part.place is None:
        return
    check_token(as_path(part.place.lease), part.place.token)
    write_json(note, vars(result) | {"digests": part.digests})
    remove_folder(as_path(part.place.checkpoints))


def _of_length(assignment: Assignment, lengths: Sequence[int]) -> Assignment:
    """Without early stopping, which needs validation rows."""
    spec = assignment.spec
    if spec.train.early_stopping is None:
        return assignment
    length = max(1, round(sum(lengths) / len(lengths)))
    train = dict(assignment.job["train"]) | {spec.unit: length, "early_stopping": None}
    return replace(assignment, job=dict(assignment.job) | {"train": train})


def _summary(event: Finished, folds: Sequence[_FoldResult], assignment: Assignment) -> Finished:
    """The final training's end, with the folds' means as validation metrics."""
    names = folds[0].metrics
    means = {name: float(np.mean([fold.metrics[name] for fold in folds])) for name in names}
    seconds = event.seconds["train"] + sum(fold.seconds for fold in folds)
    return replace(
        event,
        metrics={**event.metrics, "validation": means},
        score=means[assignment.spec.objective_metric],
        seconds={**event.seconds, "train": seconds},
        folds=tuple(fold.metrics for fold in folds),
    )
