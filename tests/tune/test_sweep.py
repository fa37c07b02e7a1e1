"""Sweeps by the command: one ingest, nothing twice, growth runs only what is new."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from pathlib import Path

import pytest

from heliostat.storage.segments import read_rows
from heliostat.tune.ledger import FINISHED
from tests.tune.opens import OpenCounter

TUNE = "tune: {trials: TRIALS, space: {model.max_depth: {low: 1, high: 6}, model.learning_rate: {low: 0.05, high: 0.5}}}"


CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SECRET = f"secret-{uuid.uuid4().hex}"


@pytest.fixture
def sweep(heliostat, make_job, tmp_path, ray_head):
    def run(trials: int, *arguments, **parts):
        parts = {"tune": TUNE.replace("TRIALS", str(trials))} | parts
        done = heliostat("run", make_job(**parts), "--set", f"storage={tmp_path}/s", "--json", *arguments,
                         env={"RAY_ADDRESS": ray_head.address} | dict.fromkeys(CREDENTIALS, SECRET))  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


def test_a_sweep_reads_once_repeats_nothing_and_grows(sweep, table, tmp_path):
    opens = OpenCounter(table)
    result, _ = sweep(20)
    counts = opens.counts()
    # Each file: its footer for the plan, and its pages for the one pass (a unit opens a row
    # group at a time: three of them here).
    assert set(counts) == {path.name for path in table.iterdir()}
    assert max(counts.values()) <= 1 + 3
    assert result["trials"] == {"run": 20, "reused": 0}
    ledger = tmp_path / "s" / "runs" / "small" / "trials"
    first = [row for row in read_rows(ledger) if row["kind"] == "final"]
    assert len({row["id"] for row in first}) == 20 and {row["status"] for row in first} == {
        FINISHED
    }
    assert result["best"]["score"] == max(row["score"] for row in first)

    again, told = sweep(20)
    assert again["trials"] == {"run": 0, "reused": 20} and again["best"] == result["best"]
    assert again["metrics"] == result["metrics"] and "20 of 20 trials are in the ledger" in told
    assert max(opens.counts().values()) <= 1  # footers only

    grown, _ = sweep(23)
    assert grown["trials"] == {"run": 3, "reused": 20}
    rows = [row for row in read_rows(ledger) if row["kind"] == "final"]
    assert rows[:20] == first and sorted(row["index"] for row in rows[20:]) == [20, 21, 22]


def test_asha_cuts_at_rungs_and_the_best_trial_goes_to_the_end(sweep, tmp_path):
    tune = "tune: {trials: 8, concurrency: 2, scheduler: {name: asha, grace_period: 2, reduction_factor: 2}, space: {model.learning_rate: {low: 0.001, high: 0.5, log: true}}}"
    result, told = sweep(8, train="train: {rounds: 9}", tune=tune)
    rows = list(read_rows(tmp_path / "s" / "runs" / "small" / "trials"))
    final = {row["id"]: row for row in rows if row["kind"] == "final"}
    cut = [row for row in final.values() if row["status"] == "cut"]
    assert len(final) == 8 and cut and all(row["progress"] in (2, 4, 8) for row in cut)
    assert final[result["best"]["trial"]]["progress"] == 9
    assert {row["rung"] for row in rows if row["kind"] == "rung"} <= {2, 4, 8}
    sessions = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    logs = list(sessions.glob("session_2*/logs/runtime_env_agent*"))
    assert logs and not any(SECRET in log.read_text(errors="ignore") for log in logs)
    assert "cut at" in told and (tmp_path / "s" / "runs" / result["run"] / "model").exists()


def test_trials_with_two_workers_sit_in_tunes_placement_group(sweep):
    parts = {"model": "model: {kind: mlp, hidden: [8]}", "train": "train: {epochs: 1, batch_size: 128}",
             "scale": "scale: {workers: 2, parallel: {shard: 2}}"}  # fmt: skip
    tune = "tune: {search: grid, space: {train.optimizer.learning_rate: [0.01, 0.03]}}"
    result, _ = sweep(0, tune=tune, **parts)
    assert result["trials"] == {"run": 2, "reused": 0}


def test_a_sweep_over_kinds_of_models_fits_each_its_own_way(sweep):
    """A tree keeps missing numbers, a linear model cannot: each trial has its own transforms."""
    tune = "tune: {search: grid, space: {model.kind: [tree, linear, knn]}}"
    result, _ = sweep(0, model="model: {kind: tree}", train="", tune=tune)
    assert result["trials"] == {"run": 3, "reused": 0}
    assert result["metrics"]["test"]["auc"] > 0.6


def test_a_failing_trial_is_a_row_and_too_many_end_the_sweep(
    heliostat, make_job, tmp_path, ray_head
):
    """A learning rate that makes the loss infinite fails its trial, not the others."""
    parts = {
        "model": "model: {kind: mlp, hidden: [8]}",
        "train": "train: {epochs: 2, batch_size: 64, optimizer: {name: sgd}}",
    }
    space = "{train.optimizer.learning_rate: [0.01, 1.0e+30, 0.02]}"
    tune = f"tune: {{search: grid, concurrency: 1, space: {space}}}"
    path = make_job(tune=tune, **parts)
    environment = {"RAY_ADDRESS": ray_head.address}
    done = heliostat("run", path, "--set", f"storage={tmp_path}/s", env=environment)
    assert done.returncode == 0, done.stderr
    assert "failed: the training loss is" in done.stderr
    worse = path.read_text().replace("[0.01, 1.0e+30, 0.02]", "[1.0e+30, 2.0e+30, 3.0e+30]")
    path.write_text(worse)
    done = heliostat("run", path, "--set", f"storage={tmp_path}/s", env=environment)
    assert done.returncode == 1 and "trials failed (`limits.failed_trials`)" in done.stderr
