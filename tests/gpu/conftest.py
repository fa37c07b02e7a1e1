"""Trainings on a GPU beside the same ones on the CPU, in this process.

Without CUDA every test here is skipped; with `HELIOSTAT_DEVICE=cpu` all run on the CPU, where few
of them prove anything but that they still run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when CUDA starts: what deterministic matrix products need.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.parallel.device import VARIABLE
from heliostat.parallel.world import SoloWorld
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import Control, NoControl
from heliostat.train.events import Event, Finished, Stepped
from heliostat.train.job import train_events
from tests.conftest import ROOT, job_text
from tests.data.packing import plan_of, prepare_here

SCALE = {"resources": {"gpu": 1}}
GPT = "{kind: gpt, max_tokens: 64, hidden_size: 64, num_attention_heads: 4, num_hidden_layers: 2,"
GPT += " num_key_value_heads: 2, intermediate_size: 128"
SECONDS_PER_TEST = 120
CODE = ROOT / "tests" / "gpu" / "own"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Libraries of a GPU machine are of other versions, and warn of other things."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(SECONDS_PER_TEST))
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.usefixtures("device"))


@pytest.fixture(scope="session")
def device() -> str:
    """What is tested: `cuda`, or `cpu` if `HELIOSTAT_DEVICE` says so."""
    if os.environ.get(VARIABLE) == "cpu":
        return "cpu"
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"torch sees no GPU, and {VARIABLE} is not `cpu`")
    return "cuda"


@dataclass(frozen=True)
class Trained:
    """What a training told, and the model it left."""

    events: list[Event]
    folder: Path
    assignment: Assignment
    losses: list[float] = field(init=False)

    def __post_init__(self) -> None:
        losses = [event.loss for event in self.events if isinstance(event, Stepped)]
        object.__setattr__(self, "losses", losses)

    @property
    def metrics(self) -> dict[str, Any]:
        """The final ones."""
        last = self.events[-1]
        assert isinstance(last, Finished)
        return dict(last.metrics)


@pytest.fixture
def train(tmp_path, table, monkeypatch) -> Callable[..., Trained]:
    """Train a job that asks for a GPU on `device`; `parts` are those of `job_text`."""

    def trained(
        device: str, name: str = "model", place: RunPlace | None = None,
        control: Control | None = None, scale: dict[str, Any] | None = None, **parts: str,
    ) -> Trained:  # fmt: skip
        monkeypatch.setenv(VARIABLE, "cpu" if device == "cpu" else "")
        job = tmp_path / "job.yaml"
        job.write_text(job_text(table, scale=f"scale: {SCALE | (scale or {})}", **parts))
        plan = plan_of(job)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
        folder = tmp_path / f"{name}-{device}"
        code = str(CODE) if "code" in parts else None
        assignment = Assignment(
            job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
            prepared=str(prepared.folder), data_digest="d", code=code, code_digest="c",
            model_folder=str(folder), place=place,
        )  # fmt: skip
        events = list(train_events(assignment, SoloWorld(), control or NoControl()))
        return Trained(events, folder, assignment)

    return trained


@pytest.fixture
def texts(tmp_path) -> str:
    """`data` of a job over short documents, several of which share a sequence."""
    rng = random.Random(2)
    words = "the mirrors of a field turn together and point the light at one tower".split()
    lines = [" ".join(rng.choices(words, k=rng.randint(2, 12))) for _ in range(300)]
    pq.write_table(pa.table({"text": lines}), tmp_path / "texts.parquet")
    return f"data: {{source: {tmp_path}/texts.parquet, target: text, task: language}}"
