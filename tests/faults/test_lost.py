"""What a run depends on is stopped or dies: the run ends soon, and says what it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from local import descendants

from heliostat.storage.files import read_json
from heliostat.storage.segments import read_rows
from tests.conftest import PATIENCE_SECONDS, job_text

pytestmark = pytest.mark.slow
NETWORK = {
    "model": "model: {kind: mlp, hidden: [16]}",
    "train": "train: {epochs: 20000, batch_size: 60}",
    "scale": "scale: {workers: 1, checkpoint: {every_steps: 100}}",
}


class Running:
    """A run in the background, and the processes below it."""

    def __init__(self, folder: Path, job: str) -> None:
        path = folder / "job.yaml"
        path.write_text(f"{job}\nstorage: {folder}/s\n")
        self.folder = folder / "s" / "runs" / "small" / "one"
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "heliostat", "run", str(path), "--id", "one"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_until(self, happened) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def says(self, text: str) -> bool:
        return any(text in row["line"] for row in read_rows(self.folder / "logs"))

    def below(self, name: str) -> list[int]:
        found = []
        for pid in descendants(self.process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if name in command:
                found.append(pid)
        return found

    def end(self) -> tuple[int, str, dict]:
        """Exit status, what it said, and the last state; nothing of it is left behind."""
        below = [*self.below("ray::"), *self.below("gcs_server"), *self.below("raylet")]
        _, told = self.process.communicate(timeout=PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(_lives(pid) for pid in below):
            assert time.monotonic() < deadline, below
            threading.Event().wait(0.1)
        return self.process.returncode, told, read_json(self.folder / "state.json")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(table, tmp_path):
    """A run of the small table; none outlives its test."""
    runs: list[Running] = []

    def begin(**parts: str) -> Running:
        runs.append(Running(tmp_path, job_text(table, **parts)))
        return runs[-1]

    yield begin
    for run in runs:
        for pid in [*reversed(descendants(run.process.pid)), run.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("daemon", ["gcs_server", "raylet"])
def test_a_run_whose_ray_dies_says_so(start, daemon):
    run = start(**NETWORK)
    run.wait_until(lambda: run.says("committed step"))
    [pid] = run.below(daemon)
    os.kill(pid, signal.SIGKILL)
    status, told, state = run.end()
    assert status == 5 and f"Ray's {daemon} (process {pid}) has died" in told
    assert "Traceback" not in told
    assert state["status"] == "INTERRUPTED" and daemon in state["error"] and state["progress"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_worker_is_named_and_holds_up_nobody(start, workers):
    settings = NETWORK | {"limits": "limits: {stall_minutes: 60}"}
    settings["scale"] = settings["scale"].replace("workers: 1", f"workers: {workers}")
    run = start(**settings)
    run.wait_until(lambda: run.says("committed step"))
    [*_, pid] = run.below("ray::_Worker")
    os.kill(pid, signal.SIGSTOP)
    run.wait_until(lambda: run.says("has not answered for"))
    run.process.send_signal(signal.SIGTERM)
    status, told, state = run.end()
    assert status == 5 and f"(process {pid} on " in told
    assert state["status"] == "INTERRUPTED" and "has not answered" in state["error"]
