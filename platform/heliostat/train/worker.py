"""What runs in a worker: join the world, train the assignment, tell the driver."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import ray

from heliostat.errors import HeliostatError
from heliostat.models.without import without
from heliostat.parallel.device import training_device
from heliostat.parallel.world import BoostedWorld, SoloWorld, TorchWorld, World
from heliostat.spec.job import JobSpec
from heliostat.train.assignment import Assignment
from heliostat.train.channel import Seat, Sender
from heliostat.train.control import ClockControl, Control
from heliostat.train.events import Event, Failed, Placed, Stuck
from heliostat.train.job import fold_events, train_events
from heliostat.train.watchdog import Watchdog

COLLECTIVE_TIMEOUT_SECONDS = 180.0
STUCK_SHARE = 0.5  # of `limits.stall_minutes`: after it, a rank says where it stands


def train_worker(assignment: Assignment, seat: Seat) -> None:
    """Train as one rank. Rank 0 tells all events; any rank tells why it cannot go on."""

    def events(control: Control) -> Iterator[Event]:
        world = join_world(assignment.spec, seat)
        yield from train_events(assignment, world, control)
        world.close()

    _work(assignment, seat, events, is_heard=seat.rank == 0)


def train_own_folds(assignment: Assignment, seat: Seat) -> None:
    """Train the folds that fall to this seat. Seats know nothing of each other; all are heard."""
    _work(assignment, seat, partial(fold_events, assignment, seat.rank, seat.size), is_heard=True)


def train_after_folds(assignment: Assignment, seat: Seat) -> None:
    """The training that follows the folds, in the first seat alone."""
    if seat.rank == 0:
        train_worker(assignment, replace(seat, size=1))


def _work(
    assignment: Assignment,
    seat: Seat,
    events: Callable[[Control], Iterator[Event]],
    is_heard: bool,
) -> None:
    """An error of ours ends the work for good, so it is a message. Anything else is raised: the
    worker group restarts the ranks, up to `limits.failures` times.
    """
    sender = Sender(seat.channel, seat.rank)
    spec = assignment.spec
    every = spec.scale.checkpoint.every_minutes
    control = ClockControl(every, sender.stop_requested, seat.reclaimed)
    patience = spec.limits.stall_minutes * 60 * STUCK_SHARE
    watchdog = Watchdog(patience, lambda at: sender.put(Stuck(seat.rank, patience, at)))
    try:
        sender.put(_placed(seat))
        for event in events(control):
            watchdog.moved()
            if is_heard:
                sender.put(event)
    except HeliostatError as error:
        sender.put(Failed(str(error), error.exit_status))
    finally:
        watchdog.end()
        sender.close()


def _placed(seat: Seat) -> Placed:
    node = ray.get_runtime_context().get_node_id()
    return Placed(seat.rank, seat.size, socket.gethostname(), node)


def join_world(spec: JobSpec, seat: Seat) -> World:
    """The world of a job's model: torch.distributed, XGBoost's own, or nobody else."""
    if seat.size == 1:
        return SoloWorld()
    if spec.model.family == "network":
        peers, device = spec.scale.parallel.peers, training_device(spec.scale.resources.gpu)
        return TorchWorld(
            seat.rank, seat.size, seat.address, COLLECTIVE_TIMEOUT_SECONDS, peers, device
        )
    return BoostedWorld(seat.rank, seat.size, seat.address, COLLECTIVE_TIMEOUT_SECONDS)


def preload(family: str) -> None:
    """Import what a worker of the family needs, while the driver still prepares the data."""
    if family == "network":
        import heliostat.train.network
    elif family == "boosted":
        with without("sklearn", "xgboost"):
            import heliostat.train.boosted
    else:
        with without("torch", "skops"):
            import heliostat.train.classic  # noqa: F401
