"""Groups of workers: one interface, plain actors here and Ray Train beside it.

`start` begins to bring workers up and returns at once; `run` hands them their work; `poll`
tells what happened since; `stop` leaves nothing behind. A worker that dies takes the group
down, and the group comes back and does the same work again, `failures` times.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from heliostat.errors import PlacementError, first_line
from heliostat.train.channel import Mailbox, Seat, Work
from heliostat.train.worker import preload

ANSWER_SECONDS = 0.2  # of a worker that lives; others are not waited for
SILENT_SECONDS = 15.0  # after them it is worth a word


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
    `error` says why a failed group failed; `size` how many workers there are, where that changes;
    `silent` who has not answered for a while.
    """

    messages: tuple[tuple[int, Any, float], ...]
    state: Literal["starting", "running", "finished", "failed"]
    error: str = ""
    restarts: int = 0
    size: int | None = None
    silent: str = ""


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


def own_place() -> str:
    """Which process this is, and where."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def silence(rank: int, place: str, seconds: float) -> str:
    """What is known of a worker that does not answer."""
    return (
        f"rank {rank} ({place}) has not answered for {seconds:.0f} s: it is stopped, its machine "
        "is busy or cannot be reached, or a library keeps all of it"
    )


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

    def poll(self) -> tuple[list[Any], str, str, str]:
        state, error = self._state, self._error  # before the messages, which come first
        return self._mailbox.take(), state, error, own_place()

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


@dataclass
class _Seen:
    """What the driver knows of a worker: its last answer, and the question on its way."""

    actor: Any
    asked: Any = None
    state: str = "idle"
    error: str = ""
    place: str = ""
    heard: float = 0.0

    @property
    def silent_seconds(self) -> float:
        """For how long it has not answered; 0 before it is up."""
        return time.monotonic() - self.heard if self.heard else 0.0


class ActorGroup:
    """Plain actors in a placement group: one's own, or one that is given (a trial's)."""

    def __init__(
        self, spec: GroupSpec, group: PlacementGroup | None = None, first_bundle: int = 0
    ) -> None:
        self.spec = spec
        self._given, self._first = group, first_bundle
        self._group: PlacementGroup | None = None
        self._seen: list[_Seen] = []
        self._address: Any = None
        self._work: tuple[Work, Any] | None = None
        self._running = self._stop_asked = False
        self._restarts = 0
        self._deadline = 0.0

    def start(self) -> None:
        """See `WorkerGroup`."""
        self._deadline = time.monotonic() + self.spec.start_seconds
        self._running = False
        self._group = self._given or placement_group([self.spec.bundle] * self.spec.size, "PACK")
        actor = ray.remote(_Worker)
        self._seen = [
            _Seen(
                actor.options(
                    num_cpus=self.spec.cpu,
                    num_gpus=self.spec.gpu,
                    memory=self.spec.memory_bytes,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(
                        self._group, placement_group_bundle_index=self._first + rank
                    ),
                ).remote(self.spec.family)
            )
            for rank in range(self.spec.size)
        ]
        self._address = self._seen[0].actor.address.remote() if self.spec.size > 1 else None

    def run(self, work: Work, payload: Any) -> None:
        """See `WorkerGroup`. Workers that have ended what they did take new work."""
        self._work, self._running = (work, payload), False
        self._begin()

    def poll(self) -> Poll:
        """See `WorkerGroup`."""
        if not self._running and not self._begin():
            return Poll((), "starting", restarts=self._restarts)
        messages: list[Any] = []
        try:
            self._ask(messages)
        except ray.exceptions.RayActorError as error:
            return self._come_back(messages, _death(error))
        errors = [f"rank {r}: {s.error}" for r, s in enumerate(self._seen) if s.state == "failed"]
        if errors:
            return self._come_back(messages, "; ".join(errors))
        done = all(seen.state == "finished" for seen in self._seen)
        state: Literal["finished", "running"] = "finished" if done else "running"
        return Poll(tuple(messages), state, restarts=self._restarts, silent=self._silent())

    def ask_stop(self) -> None:
        """See `WorkerGroup`."""
        self._stop_asked = True
        for seen in self._seen:
            seen.actor.ask_stop.remote()

    def stop(self) -> None:
        """See `WorkerGroup`."""
        with suppress(ray.exceptions.RayError):  # of a cluster that is gone
            for seen in self._seen:
                ray.kill(seen.actor)
            if self._group is not None and self._given is None:
                remove_placement_group(self._group)
        self._seen = []
        self._group = None
        self._running = False

    def _ask(self, messages: list[Any]) -> None:
        """Take the answers that are there, and ask those again who have given one."""
        for seen in self._seen:
            seen.asked = seen.asked or seen.actor.poll.remote()
        questions = [seen.asked for seen in self._seen]
        ready, _ = ray.wait(questions, num_returns=len(questions), timeout=ANSWER_SECONDS)
        for seen in self._seen:
            if seen.asked in ready:
                answer, seen.asked = seen.asked, None
                taken, seen.state, seen.error, seen.place = ray.get(answer)
                seen.heard = time.monotonic()
                messages += taken

    def _silent(self) -> str:
        told = [
            silence(rank, seen.place, seen.silent_seconds)
            for rank, seen in enumerate(self._seen)
            if seen.silent_seconds > SILENT_SECONDS
        ]
        return "; ".join(told)

    def _begin(self) -> bool:
        """Hand out the work once the workers are placed; False while they are not."""
        if self._work is None:
            return False
        assert self._group is not None
        is_placed = bool(self._group.wait(0.1))
        address = self._meeting() if is_placed else None
        if address is None:
            if time.monotonic() > self._deadline:
                raise PlacementError(start_sentence(self.spec, is_placed))
            return False
        work, payload = self._work
        with suppress(ray.exceptions.RayActorError):  # the next poll meets it, and counts it
            for rank, seen in enumerate(self._seen):
                seen.state = "running"  # until it says otherwise: it may have ended other work
                seen.asked = None
                seen.actor.run.remote(work, payload, rank, self.spec.size, address)
                if self._stop_asked:
                    seen.actor.ask_stop.remote()
        self._running = True
        return True

    def _meeting(self) -> str | None:
        """Where the ranks will meet; None as long as the first one is not up."""
        if self._address is None:
            return ""
        try:
            ready, _ = ray.wait([self._address], timeout=ANSWER_SECONDS)
            return str(ray.get(self._address)) if ready else None
        except ray.exceptions.RayActorError:
            return ""  # the next poll meets the same death, and counts it

    def _come_back(self, messages: Sequence[Any], error: str) -> Poll:
        if self._restarts >= self.spec.failures or self._stop_asked:
            return Poll(tuple(messages), "failed", error, self._restarts)
        self.stop()
        self._restarts += 1
        self.start()
        return Poll(tuple(messages), "starting", error, self._restarts)


def _death(error: BaseException) -> str:
    return f"a worker died: {first_line(error)}"


def start_sentence(spec: GroupSpec, is_placed: bool) -> str:
    """Why workers are not up in time."""
    if not is_placed:
        return placement_sentence(spec)
    return (
        f"the workers are placed, but have not come up in {spec.start_seconds / 60:g} minutes "
        "(`limits.start_minutes`)"
    )


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
