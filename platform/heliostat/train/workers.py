"""Groups of workers: one interface, plain actors here and Ray Train beside it.

`start` begins to bring workers up and returns at once; `run` hands them their work; `poll`
tells what happened since; `stop` leaves nothing behind. A worker that dies takes the group
down, and the group comes back and does the same work again, `failures` times.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from heliostat.errors import PlacementError, first_line
from heliostat.train.channel import Mailbox, Seat, Work
from heliostat.train.worker import preload


@dataclass(frozen=True)
class GroupSpec:
    """How many workers, what each holds, and how often the group may come back. With `min_size`
    there may be fewer than `size`, as the cluster allows, in multiples of `unit`.
    """

    size: int
    cpu: float
    gpu: float
    memory_bytes: int | None
    family: str
    failures: int
    start_seconds: float
    min_size: int | None = None
    unit: int = 1

    @property
    def bundle(self) -> dict[str, float]:
        """One worker's resources, in Ray's words."""
        bundle = {"CPU": self.cpu}
        if self.gpu:
            bundle["GPU"] = self.gpu
        if self.memory_bytes:
            bundle["memory"] = float(self.memory_bytes)
        return bundle


@dataclass(frozen=True)
class Poll:
    """What happened since the last poll: (rank, message, time) in order, and the group's state.
    `error` says why a failed group failed; `size` how many workers there are, where that changes.
    """

    messages: tuple[tuple[int, Any, float], ...]
    state: Literal["starting", "running", "finished", "failed"]
    error: str = ""
    restarts: int = 0
    size: int | None = None


class WorkerGroup(Protocol):
    """Workers that do one piece of work together, each with its rank."""

    def start(self) -> None:
        """Begin to bring the workers up."""

    def run(self, work: Work, payload: Any) -> None:
        """Do `work(payload, seat)` on every worker, as soon as all are up."""

    def poll(self) -> Poll:
        """Everything new. Never blocks for long."""

    def ask_stop(self) -> None:
        """Let the work end itself after its next checkpoint."""

    def stop(self) -> None:
        """End the workers now, whatever they do."""


def free_address() -> str:
    """This machine's address with a port that was free just now."""
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


class _Worker:
    """A Ray actor. Work runs in a thread of its own, so that polls are always answered."""

    def __init__(self, family: str) -> None:
        self._mailbox = Mailbox()
        self._state, self._error = "idle", ""
        self._preload = threading.Thread(target=preload, args=(family,), daemon=True)
        self._preload.start()

    def address(self) -> str:
        return free_address()

    def run(self, work: Work, payload: Any, rank: int, size: int, address: str) -> None:
        seat = Seat(rank, size, address, self._mailbox)
        self._state = "running"
        threading.Thread(target=self._work, args=(work, payload, seat), daemon=True).start()

    def poll(self) -> tuple[list[Any], str, str]:
        state, error = self._state, self._error  # before the messages, which come first
        return self._mailbox.take(), state, error

    def ask_stop(self) -> None:
        self._mailbox.ask_stop()

    def _work(self, work: Work, payload: Any, seat: Seat) -> None:
        self._preload.join()
        try:
            work(payload, seat)
        except BaseException as error:  # told to the driver, which decides
            self._error, self._state = f"{type(error).__name__}: {error}", "failed"
        else:
            self._state = "finished"


class ActorGroup:
    """Plain actors in a placement group: one's own, or one that is given (a trial's)."""

    def __init__(
        self, spec: GroupSpec, group: PlacementGroup | None = None, first_bundle: int = 0
    ) -> None:
        self.spec = spec
        self._given, self._first = group, first_bundle
        self._group: PlacementGroup | None = None
        self._actors: list[Any] = []
        self._work: tuple[Work, Any] | None = None
        self._running = False
        self._restarts = 0
        self._deadline = 0.0

    def start(self) -> None:
        """See `WorkerGroup`."""
        self._deadline = time.monotonic() + self.spec.start_seconds
        self._running = False
        self._group = self._given or placement_group([self.spec.bundle] * self.spec.size, "PACK")
        actor = ray.remote(_Worker)
        self._actors = [
            actor.options(
                num_cpus=self.spec.cpu,
                num_gpus=self.spec.gpu,
                memory=self.spec.memory_bytes,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=self._first + rank
                ),
            ).remote(self.spec.family)
            for rank in range(self.spec.size)
        ]

    def run(self, work: Work, payload: Any) -> None:
        """See `WorkerGroup`. Workers that have ended what they did take new work."""
        self._work, self._running = (work, payload), False
        self._begin()

    def poll(self) -> Poll:
        """See `WorkerGroup`."""
        if not self._running and not self._begin():
            return Poll((), "starting", restarts=self._restarts)
        try:
            answers = ray.get([actor.poll.remote() for actor in self._actors])
        except ray.exceptions.RayActorError as error:
            return self._come_back((), _death(error))
        messages = tuple(m for taken, _, _ in answers for m in taken)
        errors = [f"rank {r}: {e}" for r, (_, state, e) in enumerate(answers) if state == "failed"]
        if errors:
            return self._come_back(messages, "; ".join(errors))
        done = all(state == "finished" for _, state, _ in answers)
        return Poll(messages, "finished" if done else "running", restarts=self._restarts)

    def ask_stop(self) -> None:
        """See `WorkerGroup`."""
        for actor in self._actors:
            actor.ask_stop.remote()

    def stop(self) -> None:
        """See `WorkerGroup`."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._group is not None and self._given is None:
            remove_placement_group(self._group)
        self._group = None
        self._running = False

    def _begin(self) -> bool:
        """Hand out the work once the placement group is there; False while it is not."""
        if self._work is None:
            return False
        assert self._group is not None
        if not self._group.wait(0.1):
            if time.monotonic() > self._deadline:
                raise PlacementError(placement_sentence(self.spec))
            return False
        work, payload = self._work
        try:
            address = ray.get(self._actors[0].address.remote()) if self.spec.size > 1 else ""
            for rank, actor in enumerate(self._actors):
                actor.run.remote(work, payload, rank, self.spec.size, address)
        except ray.exceptions.RayActorError:
            pass  # the next poll meets the same death, and counts it
        self._running = True
        return True

    def _come_back(self, messages: Sequence[Any], error: str) -> Poll:
        if self._restarts >= self.spec.failures:
            return Poll(tuple(messages), "failed", error, self._restarts)
        self.stop()
        self._restarts += 1
        self.start()
        return Poll(tuple(messages), "starting", error, self._restarts)


def _death(error: BaseException) -> str:
    return f"a worker died: {first_line(error)}"


def placement_sentence(spec: GroupSpec) -> str:
    """What is asked for against what the cluster has, as a sum."""
    total, free = ray.cluster_resources(), ray.available_resources()
    sums = []
    wanted = spec.min_size or spec.size
    for key, name, each in (("CPU", "CPUs", spec.cpu), ("GPU", "GPUs", spec.gpu)):
        if each:
            sums.append(
                f"{wanted} workers x {each:g} = {wanted * each:g} {name}, the cluster has "
                f"{total.get(key, 0):g}, {free.get(key, 0):g} of them free"
            )
    return (
        f"the workers could not be placed: {'; '.join(sums)}. "
        "Lower `scale`, or use a larger cluster and `--resume`"
    )
