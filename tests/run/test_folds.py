"""Folds of a run train side by side, and it changes nothing."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from heliostat.parallel.world import SoloWorld
from heliostat.storage.files import read_json
from heliostat.storage.segments import read_rows
from heliostat.train.assignment import Assignment
from heliostat.train.control import NoControl
from heliostat.train.job import train_events
from tests.data.packing import plan_of
from tests.run.test_faults import Running, weights

pytestmark = pytest.mark.slow

JOB = """
name: fault
seed: 3
data:
  source: SOURCE
  target: late
  task: binary
  features: {carrier: category, distance: number, dep_delay: number}
  split: {method: random, folds: 3, test: 0.2}
model: {kind: mlp, hidden: [32, 32], dropout: 0.1}
train: {epochs: 2, batch_size: 1024, early_stopping: {patience: 2}}
scale: {checkpoint: {every_steps: 50}}
"""


def test_they_overlap_and_end_as_one_after_another(tmp_path, flights, heliostat):
    path, storage = tmp_path / "job.yaml", tmp_path / "s"
    path.write_text(JOB.replace("SOURCE", str(flights)) + f"storage: {storage}\n")
    done = heliostat("run", path, "--id", "whole")
    assert done.returncode == 0, done.stderr
    whole = storage / "runs" / "fault" / "whole"
    rows = [row for row in read_rows(whole / "metrics") if "train/loss" in row]
    first, second = ([row["time"] for row in rows if row["fold"] == fold] for fold in (0, 1))
    assert first[0] < second[-1] and second[0] < first[-1]
    places = [(row["fold"], row["step"]) for row in rows]
    assert places == sorted(set(places)) and {fold for fold, _ in places} == {0, 1, 2, 3}

    alone = one_after_another(path, storage, tmp_path / "alone")
    result = read_json(whole / "result.json")
    assert result["folds"] == [dict(metrics) for metrics in alone.folds]
    assert weights(whole) == (tmp_path / "alone" / "weights.safetensors").read_bytes()

    run = Running(path, "touched", storage)
    run.wait_for("committed step 100")
    run.process.send_signal(signal.SIGINT)
    status, told = run.end()
    assert status == 3 and "Traceback" not in told
    kept = {place.name for place in (run.folder / "checkpoints").iterdir()}
    assert {"fold-0", "fold-1"} <= kept  # none was ended before it had committed
    run = Running(path, "touched", storage)
    run.wait_for("fold 1/3: resumed at step")
    os.kill(run.workers()[-1], signal.SIGKILL)
    status, told = run.end()
    assert status == 0 and "a worker was lost" in told, told
    assert read_json(run.folder / "result.json")["folds"] == result["folds"]
    assert weights(run.folder) == weights(whole)
    again = [row for row in read_rows(run.folder / "metrics") if "train/loss" in row]
    assert [(r["fold"], r["step"], r["train/loss"]) for r in again] == [
        (r["fold"], r["step"], r["train/loss"]) for r in rows
    ]


def one_after_another(path, storage, model):
    """The same in this process, on one thread as a worker has."""
    plan, threads = plan_of(path), torch.get_num_threads()
    assignment = Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
        prepared=str(storage / "prepared" / plan.prepared_digest), data_digest="d", code=None,
        code_digest="c", model_folder=str(model),
    )  # fmt: skip
    try:
        torch.set_num_threads(1)
        *_, finished = train_events(assignment, SoloWorld(), NoControl())
    finally:
        torch.set_num_threads(threads)
    return finished
