"""Train one assignment on one rank: the single training path of runs and trials alike."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial

from heliostat.models.without import without
from heliostat.parallel.world import SoloWorld, World
from heliostat.storage.objects import as_path
from heliostat.train.assignment import Assignment, open_data
from heliostat.train.checkpoint import (
    Checkpoints,
    CommittedCheckpoints,
    ScratchCheckpoints,
    TrialCheckpoints,
)
from heliostat.train.control import Control
from heliostat.train.crossval import cross_validation, every_nth_fold
from heliostat.train.events import Event, Finished


def train_events(
    assignment: Assignment, world: World, control: Control
) -> Generator[Event, None, None]:
    """Train, yielding events; the last one is `Finished` or `Stopped`.

    Raises:
        UserError: the data, now that it is seen, does not fit the job.
        TrainError: training met something that a restart would meet again.
    """
    num_folds = assignment.spec.data.num_folds
    if num_folds is None or assignment.fold is not None or assignment.refit:
        return training(assignment, world, control)
    train = partial(training, world=world, control=control)
    return cross_validation(assignment, num_folds, train, keeps_notes=world.leads)


def fold_events(
    assignment: Assignment, first: int, num_at_once: int, control: Control
) -> Generator[Event, None, None]:
    """Train every `num_at_once`-th fold from `first` on, alone: `train_events` then finds how they
    ended.
    """
    num_folds = assignment.spec.data.num_folds
    assert num_folds is not None
    train = partial(training, world=SoloWorld(), control=control)
    return every_nth_fold(assignment, num_folds, first, num_at_once, train)


def training(
    assignment: Assignment, world: World, control: Control
) -> Generator[Event, None, None]:
    """One training: of a job without folds, of a fold, or of all of them at last."""
    started = time.perf_counter()
    data = open_data(assignment)
    opened = time.perf_counter()
    checkpoints = checkpoints_of(assignment, world)
    family = assignment.spec.model.family
    # Each family brings a library that takes seconds to import; a worker needs only its own.
    if family == "network":
        from heliostat.train.network import train_network

        events = train_network(assignment, data, world, checkpoints, control)
    elif family == "boosted":
        with without("sklearn", "xgboost"):
            from heliostat.train.boosted import train_boosted

        events = train_boosted(assignment, data, world, checkpoints, control)
    else:
        with without("torch", "skops"):
            from heliostat.train.classic import train_classic

        events = train_classic(assignment, data)
    for event in events:
        if isinstance(event, Finished):
            seconds = {"open": opened - started, "train": time.perf_counter() - opened}
            event = replace(event, seconds=seconds)
        yield event


def checkpoints_of(assignment: Assignment, world: World) -> Checkpoints:
    """Where a training keeps its checkpoints."""
    place = assignment.place
    if place is None:
        return ScratchCheckpoints()
    lasting = CommittedCheckpoints(
        as_path(place.checkpoints),
        as_path(place.lease),
        place.token,
        assignment.spec.scale.checkpoint.keep,
        assignment.digests,
    )
    # What one process keeps for itself, the others could not load.
    num_processes = world.size * assignment.spec.scale.parallel.peers
    return lasting if place.keeps_best or num_processes > 1 else TrialCheckpoints(lasting)
