"""SIGTERM at random moments: a run exits 5, and resumes to the bytes of an undisturbed one.

How often is for HELIOSTAT_SIGTERMS to say; the moments follow from HELIOSTAT_SEED, and are told.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from heliostat.storage.files import read_json
from heliostat.storage.segments import read_rows
from tests.conftest import write_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
NUM_SIGNALS = int(os.environ.get("HELIOSTAT_SIGTERMS", "2"))
SEED = int(os.environ.get("HELIOSTAT_SEED", "11"))
SECONDS = float(os.environ.get("HELIOSTAT_PATIENCE", "600"))

NETWORK = """
model: {kind: mlp, hidden: [16], dropout: 0.1}
train: {epochs: EPOCHS, batch_size: 60}
scale: {workers: WORKERS, checkpoint: {every_steps: 40}}
"""
BOOSTED = """
model: {kind: xgboost, max_depth: 3}
train: {rounds: 24}
scale: {workers: WORKERS, checkpoint: {every_steps: 6}}
"""
SWEEP = "tune: {search: random, trials: 3, concurrency: 2, fuse: false, space: {SPACE}}\n"
RATES = "{low: 0.01, high: 0.3, log: true}"
KINDS = {
    "train, 2 workers": NETWORK.replace("WORKERS", "2").replace("EPOCHS", "8"),
    "sweep, 1 worker": NETWORK.replace("WORKERS", "1").replace("EPOCHS", "6")
    + SWEEP.replace("SPACE", f"train.optimizer.learning_rate: {RATES}"),
    "prepare": BOOSTED.replace("WORKERS", "1").replace("24", "3"),
    "train, 1 worker": NETWORK.replace("WORKERS", "1").replace("EPOCHS", "8"),
    "sweep, 2 workers": BOOSTED.replace("WORKERS", "2")
    + SWEEP.replace("SPACE", f"model.learning_rate: {RATES}").replace("concurrency: 2", "concurrency: 1"),
}  # fmt: skip


@dataclass
class Job:
    """One kind of run, in a storage of its own."""

    path: Path
    storage: Path

    @property
    def folder(self) -> Path:
        return self.storage / "runs" / "signalled" / "one"

    def start(self, *settings: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return subprocess.Popen(
            [sys.executable, "-m", "heliostat", "run", str(self.path), *settings,
             "--set", f"storage={self.storage}"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def said(self) -> list[dict[str, Any]]:
        return list(read_rows(self.folder / "logs"))

    def bytes_of_model(self) -> dict[str, str]:
        files = sorted(path for path in (self.folder / "model").rglob("*") if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def metrics(self) -> Any:
        return read_json(self.folder / "result.json")["metrics"]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    small = write_table(folder / "small")
    # More row groups than one process packs by itself.
    large = write_table(folder / "large", num_files=10, rows_per_file=66_000, rows_per_group=66_000)

    def job(kind: str, name: str) -> Job:
        source = large if kind == "prepare" else small
        head = (
            f"name: signalled\nseed: 3\ndata: {{source: {source}, target: late, task: binary,"
            " features: {x: number, z: number, count: number, color: category}}\n"
        )
        own = folder / kind.replace(",", "").replace(" ", "-")
        own.mkdir(exist_ok=True)
        (own / "job.yaml").write_text(head + KINDS[kind])
        return Job(own / "job.yaml", own / name)

    return job


def signals_of(kind: str) -> int:
    """How many of the signals fall to a kind of run."""
    place = list(KINDS).index(kind)
    return len(range(place, NUM_SIGNALS, len(KINDS)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if signals_of(kind)])
def test_a_run_that_is_terminated_again_and_again_ends_with_the_same_bytes(make, kind):
    chance = random.Random(f"{SEED} {kind}")
    clean, job = make(kind, "clean"), make(kind, "signalled")
    whole = clean.start("--id", "one")
    told, _ = whole.communicate(timeout=SECONDS)
    assert whole.returncode == 0, told
    count = signals_of(kind)
    for number in range(count):
        first, seconds = moment(clean, kind, chance.random(), count)
        status, told, last = terminated(job, first, seconds)
        row = f"{kind:<18}{number + 1}/{count}  {seconds:6.2f} s after `{first}`, at: {last}"
        print(f"{row}  exit {status}", flush=True)
        assert status == 5, f"seed {SEED}, {row}: {told}"
        state = read_json(job.folder / "state.json")
        assert (state["status"], "SIGTERM" in state["error"]) == ("INTERRUPTED", True), row
    resumed = job.start("--resume", "signalled/one")
    told, _ = resumed.communicate(timeout=SECONDS)
    assert resumed.returncode == 0, f"seed {SEED}: {told}"
    assert job.bytes_of_model() == clean.bytes_of_model(), f"seed {SEED}"
    assert json.dumps(job.metrics()) == json.dumps(clean.metrics()), f"seed {SEED}"
    print(f"{kind:<18}the same bytes", flush=True)


def moment(clean: Job, kind: str, share: float, count: int) -> tuple[str, float]:
    """After which line the signal comes, and how long after: early enough that an undisturbed run
    of the same pace would not have ended.
    """
    times = {
        row["line"].split()[0]: row["time"] for row in reversed(clean.said()) if row["line"].strip()
    }
    first, last = ("run", "rows") if kind == "prepare" else ("rows", "report")
    return first, share * (times[last] - times[first]) / (1 if kind == "prepare" else count)


def terminated(job: Job, first: str, seconds: float) -> tuple[int, str, str]:
    """Run on and send the signal; exit status, output, and the last line before it."""
    before = len(job.said())
    process = job.start("--id", "one")
    deadline = time.monotonic() + SECONDS
    while not any(row["line"].startswith(first) for row in job.said()[before:]):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        threading.Event().wait(0.02)
    threading.Event().wait(seconds)
    last = job.said()[-1]["line"][:50]
    os.killpg(process.pid, signal.SIGTERM)  # as a terminal, or `kill -- -PID`: to all of the group
    told, _ = process.communicate(timeout=SECONDS)
    return process.returncode, told, last
