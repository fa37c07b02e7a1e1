"""Trainings on several ranks, joined without Ray: a pool of processes that stay, for to import
torch costs more than the test.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Iterator

import pytest

from heliostat.parallel.world import SoloWorld
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import NoControl
from heliostat.train.events import Finished, Stepped
from heliostat.train.job import train_events
from heliostat.train.worker import join_world
from tests.conftest import PATIENCE_SECONDS, free_port, job_text
from tests.data.packing import plan_of, prepare_here

FAILING_SECONDS = 10  # what ranks have to fail as another did; then they are killed, as in a run


class Pool:
    """Processes that each wait for a rank to be."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.answers = self.context.Queue()
        self.ranks: list[tuple] = []

    def train(self, assignment: Assignment, size: int, stop_at: int | None = None):
        """Losses and final metrics of rank 0; metrics are None if it was stopped."""
        while len(self.ranks) < size:
            works = self.context.Queue()
            process = self.context.Process(
                target=be_a_rank, args=(works, self.answers), daemon=True
            )
            process.start()
            self.ranks.append((process, works))
        port = free_port()
        for rank, (_, works) in enumerate(self.ranks[:size]):
            works.put((assignment, rank, size, port, stop_at, dict(os.environ)))
        found, problem, patience = {}, None, PATIENCE_SECONDS
        for _ in range(size):
            try:
                rank, answer, other = self.answers.get(timeout=patience)
            except queue.Empty:
                self.end()
                raise AssertionError(problem or "the ranks did not come to an end") from None
            found[rank] = answer
            if other is not None:  # the others may have failed alike, or wait for this one
                problem, patience = problem or other, FAILING_SECONDS
        if problem is not None:
            raise AssertionError(problem)
        return found[0]

    def end(self) -> None:
        for process, _ in self.ranks:
            process.kill()
            process.join()
        # One that was killed may have left its answer, or held the queue's lock.
        self.ranks, self.answers = [], self.context.Queue()


def be_a_rank(works, answers) -> None:
    """Train whatever comes, as the rank that it says."""
    from heliostat.train.channel import Mailbox, Seat

    while True:
        assignment, rank, size, port, stop_at, environment = works.get()
        os.environ.update(environment)  # of the test, which began after this process
        answer, problem, world = None, None, None
        try:
            seat = Seat(rank, size, f"127.0.0.1:{port}", Mailbox())
            world = join_world(assignment.spec, seat) if size > 1 else SoloWorld()
            control = NoControl() if stop_at is None else StopAfter(stop_at)
            events = list(train_events(assignment, world, control))
            losses = [event.loss for event in events if isinstance(event, Stepped)]
            finished = [event.metrics for event in events if isinstance(event, Finished)]
            answer = losses, finished[0] if finished else None
        except BaseException:
            problem = traceback.format_exc()
        # Before the others meet a connection that is closed, and tell of that.
        answers.put((rank, answer, problem))
        if world is not None:
            world.close()
            let_groups_end()


def let_groups_end() -> None:
    """Torch keeps the meshes of trainings that are over in caches of its own, and each mesh its
    process groups, whose threads look for messages a hundred times a second. Dozens of trainings
    in one process would take a whole core.
    """
    from torch.distributed.device_mesh import DeviceMesh

    for found in gc.get_objects():
        if type(found) is DeviceMesh:
            found._pg_registry.clear()


class StopAfter(NoControl):
    """Asks for a stop from the n-th question on."""

    def __init__(self, asks: int) -> None:
        self.asks = asks

    def stop_requested(self) -> bool:
        self.asks -= 1
        return self.asks < 0


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.end()


@pytest.fixture
def trained(tmp_path, table, monkeypatch, pool) -> Callable[..., tuple]:
    """Train a job on `size` ranks; its losses, metrics and model folder."""

    def train(
        size: int, place: RunPlace | None = None, name: str = "", stop_at: int | None = None,
        final: bool = True, **parts: str,
    ):  # fmt: skip
        job = tmp_path / "job.yaml"
        job.write_text(job_text(table, **parts))
        plan = plan_of(job)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        folder = tmp_path / f"model-{size}{name}"
        assignment = Assignment(
            job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
            prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
            model_folder=str(folder), place=place, final=final,
        )  # fmt: skip
        return *pool.train(assignment, size, stop_at), folder

    return train
