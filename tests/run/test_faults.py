"""Interrupted equals uninterrupted, through the public command and with real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from heliostat.storage.files import read_json
from heliostat.storage.objects import StorePath, as_path
from heliostat.storage.segments import read_rows
from tests.conftest import descendants

pytestmark = pytest.mark.slow

JOB = """
name: fault
seed: 3
data:
  source: SOURCE
  target: late
  task: binary
  features: {carrier: category, origin: category, dest: category, sched_dep_time: number,
             distance: number, month: number, day: number, hour: number, dep_delay: number}
model: {kind: mlp, hidden: [32, 32], dropout: 0.1}
train: {epochs: EPOCHS, batch_size: 1024}
scale: {workers: WORKERS, checkpoint: {every_steps: 50}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, flights):
    folder = tmp_path_factory.mktemp("faults")

    def write(workers: int, epochs: int = 6) -> Path:
        path = folder / f"job-{workers}-{epochs}.yaml"
        text = JOB.replace("SOURCE", str(flights)).replace("WORKERS", str(workers))
        path.write_text(text.replace("EPOCHS", str(epochs)) + f"storage: {folder}/s\n")
        return path

    write.storage = folder / "s"
    return write


class Running:
    """`heliostat run` in the background, with an eye on its run folder."""

    def __init__(self, path: Path, run_id: str, storage: StorePath, *settings: str) -> None:
        self.folder = storage / "runs" / "fault" / run_id
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "heliostat", "run", str(path), "--id", run_id, *settings],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(text in row["line"] for row in read_rows(self.folder / "logs")):
                return
            assert self.process.poll() is None, self.process.communicate()
            threading.Event().wait(0.05)
        raise AssertionError(f"`{text}` was not said within {seconds} seconds")

    def workers(self) -> list[int]:
        """The training processes among our own descendants, by their titles."""
        found = []
        for pid in descendants(self.process.pid):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith((b"ray::_Worker", b"ray::RayTrainWorker")):
                found.append(pid)
        return found

    def end(self, seconds: float = 180) -> tuple[int, str]:
        _, told = self.process.communicate(timeout=seconds)
        return self.process.returncode, told


def weights(folder: StorePath) -> bytes:
    return (folder / "model" / "weights.safetensors").read_bytes()


def losses(folder: StorePath) -> list[tuple[int, float]]:
    rows = [row for row in read_rows(folder / "metrics") if "train/loss" in row]
    return [(row["step"], row["train/loss"]) for row in rows]


@pytest.fixture(scope="module")
def undisturbed(place):
    """The folder of a run that nobody touched, by its number of workers."""
    folders: dict[int, Path] = {}

    def folder(workers: int) -> Path:
        if workers not in folders:
            run = Running(place(workers), f"clean-{workers}", place.storage)
            status, told = run.end()
            assert status == 0, told
            folders[workers] = run.folder
        return folders[workers]

    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_nothing_changes(place, undisturbed, workers):
    clean = undisturbed(workers)
    run = Running(place(workers), f"worker-{workers}", place.storage)
    run.wait_for("committed step 400")
    os.kill(run.workers()[-1], signal.SIGKILL)
    status, told = run.end()
    assert status == 0, told
    assert "a worker was lost" in told and "resumed at step" in told
    assert weights(run.folder) == weights(clean) and losses(run.folder) == losses(clean)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_driver_is_resumed_and_nothing_changes(place, undisturbed, heliostat, workers):
    clean = undisturbed(workers)
    run = Running(place(workers), f"driver-{workers}", place.storage)
    run.wait_for("committed step 400")
    run.process.kill()
    run.process.communicate()
    storage = ("--storage", place.storage)
    reference = f"fault/driver-{workers}"
    told = heliostat("status", reference, *storage).stdout
    assert "INTERRUPTED" in told and "no heartbeat" in told
    # A resume may change how the job runs, but not what it learns.
    resume = ("run", place(workers), "--resume", reference, "--set")
    refused = heliostat(*resume, "train.batch_size=512")
    assert refused.returncode == 2 and "train.batch_size: 1024 became 512" in refused.stderr
    done = heliostat(*resume, "scale.checkpoint.keep=3")
    assert done.returncode == 0, done.stderr
    assert "changed   scale.checkpoint.keep: 2 -> 3" in done.stderr
    assert "resumed at step" in done.stderr
    assert weights(run.folder) == weights(clean) and losses(run.folder) == losses(clean)
    assert read_json(run.folder / "state.json")["attempt"] == 2


def test_an_object_store_keeps_a_run_as_a_folder_does(
    place, undisturbed, heliostat, flights, s3_store, monkeypatch, tmp_path
):
    clean = undisturbed(2)
    for key, value in (s3_store.environment | {"HELIOSTAT_CACHE": str(tmp_path)}).items():
        monkeypatch.setenv(key, value)
    storage = as_path("s3://bucket/faults")
    there = ("--set", f"storage={storage}")
    run = Running(place(2), "s3", storage, *there)
    run.wait_for("committed step 200")
    os.kill(s3_store.pid, signal.SIGSTOP)  # the store is away for a while
    threading.Event().wait(4)
    os.kill(s3_store.pid, signal.SIGCONT)
    run.wait_for("committed step 400")
    run.process.kill()
    run.process.communicate()
    told = heliostat("status", "fault/s3", "--storage", storage).stdout
    assert "INTERRUPTED" in told
    job = f"{storage}/runs/fault/s3/job.yaml"
    done = heliostat("run", job, "--resume", "fault/s3")
    assert done.returncode == 0 and "resumed at step" in done.stderr, done.stderr
    assert weights(run.folder) == weights(clean) and losses(run.folder) == losses(clean)
    folder = storage / "runs" / "fault" / "s3"
    assert b"<svg" in (folder / "report.html").read_bytes()
    lines = heliostat("logs", "fault/s3", "--storage", storage).stdout
    assert "report    s3://bucket/faults" in lines
    target = f"{storage}/predictions"
    scored = heliostat(
        "predict", "fault/s3", "--data", flights, "--out", target, "--storage", storage
    )
    assert scored.returncode == 0, scored.stderr
    names = [path.name for path in as_path(target).iterdir()]
    assert "_SUCCESS" in names and "part-00000.parquet" in names


def test_ctrl_c_stops_after_a_checkpoint_and_resume_goes_on(place, undisturbed, heliostat):
    clean = undisturbed(1)
    run = Running(place(1), "ctrl-c", place.storage)
    run.wait_for("committed step 100")
    run.process.send_signal(signal.SIGINT)
    status, told = run.end()
    assert status == 3 and "stopped at step" in told and "Traceback" not in told
    assert "error" not in told and "to continue" in told and "--resume fault/ctrl-c" in told
    assert read_json(run.folder / "state.json")["status"] == "STOPPED"
    done = heliostat("run", place(1), "--id", "ctrl-c", "--json")  # the same id goes on
    assert done.returncode == 0, done.stderr
    assert weights(run.folder) == weights(clean)
    again = heliostat("run", place(1), "--id", "ctrl-c", "--json")  # and is never run twice
    assert json.loads(again.stdout) == json.loads(done.stdout)


def test_a_request_to_stop_and_a_second_driver(place, heliostat):
    run = Running(place(1, epochs=60), "asked", place.storage)
    run.wait_for("committed step 100")
    second = Running(place(1, epochs=60), "asked", place.storage)  # attaches: never two writers
    storage = ("--storage", place.storage)
    assert "RUNNING" in heliostat("status", "fault/asked", *storage).stdout
    said = heliostat("stop", "fault/asked", *storage).stdout
    assert "will commit a checkpoint and stop" in said and "--resume fault/asked" in said
    assert run.end()[0] == 3
    status, told = second.end()
    assert status == 3 and "is running elsewhere; following it" in told
    followed = heliostat("logs", "-f", "fault/asked", *storage)
    assert followed.returncode == 3 and "committed step 100" in followed.stdout
    assert "error" not in followed.stderr and "--resume fault/asked" in followed.stderr


HANGING = """
import threading
import torch
class Net(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = torch.nn.Linear(shape.num_numbers, shape.num_outputs)
        self.calls = 0
    def forward(self, numbers, categories):
        self.calls += 1
        if self.calls == 30:
            threading.Event().wait()
        return self.layer(numbers)
"""


def test_a_worker_that_hangs_ends_the_run_with_a_sentence(place, heliostat):
    folder = place.storage.parent / "hanging"
    folder.mkdir()
    (folder / "net.py").write_text(HANGING)
    settings = [
        f"code={{path: {folder}}}", "model={kind: custom, class: 'net:Net'}",
        "limits.stall_minutes=0.2",  # longer than a worker needs to start
    ]  # fmt: skip
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = heliostat("run", place(1), "--id", "hangs", *arguments)
    assert done.returncode == 5, done.stderr
    assert "nothing has moved for 0.2 minutes (`limits.stall_minutes`)" in done.stderr
    assert re.search(
        r"rank 0 has not moved for \d s; it stands at\n.*net\.py:\d+ in forward", done.stderr, re.S
    )
    storage = ("--storage", place.storage)
    assert "INTERRUPTED" in heliostat("status", "fault/hangs", *storage).stdout
