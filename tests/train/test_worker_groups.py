"""The contract of worker groups: one test class, two implementations."""

from __future__ import annotations

import os
import signal
import threading
import time
from abc import abstractmethod

import pytest

from heliostat.errors import PlacementError
from heliostat.train.channel import Seat
from heliostat.train.workers import ActorGroup, GroupSpec, WorkerGroup
from tests.conftest import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("ray_session")


def say(payload, seat: Seat) -> None:
    """Each rank tells where it sits, and its process."""
    seat.channel.send([(seat.rank, ("sits", seat.size, payload, os.getpid()), time.time())])
    for i in range(3):
        seat.channel.send([(seat.rank, i, time.time())])


def wait_for_stop(payload, seat: Seat) -> None:
    while not seat.channel.send([(seat.rank, ("pid", os.getpid()), time.time())]):
        threading.Event().wait(0.05)


def fail(payload, seat: Seat) -> None:
    if seat.rank == 1:
        raise RuntimeError("rank one does not like this")
    wait_for_stop(payload, seat)


def poll_until(group: WorkerGroup, done, seconds: float = PATIENCE_SECONDS):
    """All messages until `done(poll, messages)`."""
    messages, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        poll = group.poll()
        messages += [(rank, message) for rank, message, _ in poll.messages]
        if done(poll, messages):
            return poll, messages
        threading.Event().wait(0.05)
    raise AssertionError(f"still {poll.state} after {seconds} seconds: {messages[-5:]}")


def ended(poll, messages) -> bool:
    return poll.state in ("finished", "failed")


class WorkerGroupContract:
    @abstractmethod
    def make(self, tmp_path, **changes) -> WorkerGroup: ...

    @pytest.fixture
    def group(self, tmp_path):
        made = []

        def build(**changes):
            made.append(self.make(tmp_path, **changes))
            made[-1].start()
            return made[-1]

        yield build
        for group in made:
            group.stop()

    def spec(self, **changes) -> GroupSpec:
        fields = {"size": 2, "cpu": 1, "gpu": 0, "memory_bytes": None, "family": "classic",
                  "failures": 0, "start_seconds": 240.0}  # fmt: skip
        return GroupSpec(**fields | changes)

    def test_every_rank_does_the_work_and_is_heard_in_order(self, group):
        workers = group()
        workers.run(say, "payload")
        poll, messages = poll_until(workers, ended)
        assert poll.state == "finished"
        for rank in (0, 1):
            heard = [message for r, message in messages if r == rank]
            assert heard[0][:3] == ("sits", 2, "payload") and heard[1:] == [0, 1, 2]

    def test_an_error_names_its_text_and_ends_the_group(self, group):
        workers = group()
        workers.run(fail, None)
        poll, _ = poll_until(workers, ended)
        assert poll.state == "failed" and "rank one does not like this" in poll.error

    def test_a_killed_worker_brings_the_whole_group_back(self, group):
        workers = group(failures=1)
        workers.run(wait_for_stop, None)
        _, messages = poll_until(workers, lambda p, m: {r for r, _ in m} == {0, 1})
        pids = {message[1] for _, message in messages}
        os.kill(next(message[1] for rank, message in messages if rank == 1), signal.SIGKILL)
        poll, _ = poll_until(
            workers, lambda p, m: len({x[1] for r, x in m if x[1] not in pids}) == 2
        )
        assert poll.restarts == 1
        workers.ask_stop()
        poll, _ = poll_until(workers, ended)
        assert poll.state == "finished"

    def test_a_stop_leaves_no_worker_and_gives_the_cpus_back(self, group, ray_session):
        before = ray_session.available_resources().get("CPU", 0)
        workers = group()
        workers.run(wait_for_stop, None)
        _, messages = poll_until(workers, lambda p, m: {r for r, _ in m} == {0, 1})
        workers.stop()
        deadline = time.monotonic() + 30
        pids = {message[1] for _, message in messages}
        while time.monotonic() < deadline:
            alive = {pid for pid in pids if os.path.exists(f"/proc/{pid}")}
            if not alive and ray_session.available_resources().get("CPU", 0) >= before:
                return
            threading.Event().wait(0.2)
        raise AssertionError(f"{alive} still alive")

    def test_what_cannot_be_placed_says_the_sum(self, group):
        workers = group(cpu=50, start_seconds=3.0)
        workers.run(say, None)
        with pytest.raises(PlacementError, match="2 workers x 50 = 100 CPUs, the cluster has 4"):
            poll_until(workers, ended)


class TestActorGroup(WorkerGroupContract):
    def make(self, tmp_path, **changes) -> WorkerGroup:
        return ActorGroup(self.spec(**changes))


class TestRayTrainGroup(WorkerGroupContract):
    def make(self, tmp_path, **changes) -> WorkerGroup:
        from heliostat.train.ray_train import RayTrainGroup

        return RayTrainGroup(self.spec(**changes), str(tmp_path / "ray"))
