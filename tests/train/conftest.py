"""Trainings on several ranks, joined without Ray."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest

from heliostat.parallel.world import SoloWorld
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import NoControl
from heliostat.train.events import Finished, Stepped
from heliostat.train.job import train_events
from heliostat.train.worker import join_world
from tests.conftest import free_port, job_text
from tests.data.packing import plan_of, prepare_here


def train_rank(assignment: Assignment, rank: int, size: int, port: int, answers) -> None:
    """One rank in a process of its own, joined without Ray."""
    from heliostat.train.channel import Mailbox, Seat

    seat = Seat(rank, size, f"127.0.0.1:{port}", Mailbox())
    world = join_world(assignment.spec.model.family, seat) if size > 1 else SoloWorld()
    events = list(train_events(assignment, world, NoControl()))
    world.close()
    if rank == 0:
        losses = [event.loss for event in events if isinstance(event, Stepped)]
        finished = next(event for event in events if isinstance(event, Finished))
        answers.put((losses, finished.metrics))


@pytest.fixture
def trained(tmp_path, table, monkeypatch) -> Callable[..., tuple]:
    """Train a job on `size` ranks; its losses, metrics and model folder."""
    context = multiprocessing.get_context("spawn")

    def train(size: int, place: RunPlace | None = None, name: str = "", **parts: str):
        job = tmp_path / "job.yaml"
        job.write_text(job_text(table, **parts))
        plan = plan_of(job)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        folder = tmp_path / f"model-{size}{name}"
        assignment = Assignment(
            job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
            prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
            model_folder=str(folder), place=place,
        )  # fmt: skip
        answers, port = context.Queue(), free_port()
        ranks = [
            context.Process(target=train_rank, args=(assignment, rank, size, port, answers))
            for rank in range(size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(60)
            assert rank.exitcode == 0, [other.kill() for other in ranks]
        answer = answers.get(timeout=10)
        return *answer, folder

    return train
