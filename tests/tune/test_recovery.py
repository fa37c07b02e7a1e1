"""Sweeps that are killed: resumed, they are what they would have been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliostat.storage.segments import read_rows
from tests.conftest import PATIENCE_SECONDS

SPACE = "{model.learning_rate: {low: 0.001, high: 0.5, log: true}, model.max_depth: {low: 1, high: 6}, model.subsample: [0.7, 1.0]}"
TUNE = (
    "tune: {search: tpe, trials: TRIALS, concurrency: 2, deterministic: true, "
    f"scheduler: {{name: asha, mode: MODE, grace_period: 1, reduction_factor: 3}}, space: {SPACE}}}"
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stop", "promote"])
def test_a_sweep_killed_ten_times_takes_the_same_decisions(
    heliostat, make_job, tmp_path, ray_head, mode
):
    """SIGKILL the driver at random moments; each trial ends once, and the best is the same."""
    environment = {"RAY_ADDRESS": ray_head.address}
    tune = TUNE.replace("TRIALS", "200").replace("MODE", mode)
    job = make_job(train="train: {rounds: 9}", tune=tune)
    job.write_text(job.read_text().replace("name: small", "name: whole"))
    done = heliostat("run", job, "--set", f"storage={tmp_path}/s", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    chance = random.Random(5)
    for num_ended in sorted(chance.sample(range(180), 10)):
        kill_run(job, tmp_path, environment, num_ended, chance.uniform(0, 0.3))
    last = heliostat("run", job, "--set", f"storage={tmp_path}/s", "--set", "name=killed", "--json",
                     env=environment)  # fmt: skip
    assert last.returncode == 0, last.stderr
    whole, killed = (final_rows(tmp_path / "s" / "runs" / name) for name in ("whole", "killed"))
    assert len(whole) == 200 and len(killed) == 200  # each once
    assert {decision(row) for row in killed} == {decision(row) for row in whole}
    results = [json.loads(text.stdout)["best"] for text in (done, last)]
    assert results[0] == results[1]


def kill_run(job: Path, tmp_path: Path, environment, num_ended: int, seconds: float) -> None:
    """Run, and kill the driver `seconds` after so many trials in all have ended: in whatever it is
    about, be it to start.
    """
    command = [sys.executable, "-m", "heliostat", "run", str(job), "--set", f"storage={tmp_path}/s",
               "--set", "name=killed"]  # fmt: skip
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder = tmp_path / "s" / "runs" / "killed"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(final_rows(folder)) < num_ended and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    assert len(final_rows(folder)) >= num_ended
    time.sleep(seconds)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def final_rows(folder: Path) -> list[dict]:
    return [row for row in read_rows(folder / "trials") if row["kind"] == "final"]


def decision(row: dict) -> str:
    """All of a final row but who wrote it and how long it took."""
    kept = {k: v for k, v in row.items() if k not in ("seconds", "run")}
    return json.dumps(kept, sort_keys=True)


DYING = '''
import os
from pathlib import Path
import torch
from torch import nn

class Dying(nn.Module):
    """Ends its process once: the first time that it is made with a width."""
    def __init__(self, shape, width, folder):
        super().__init__()
        marker = Path(folder) / f"died-{width}"
        if width == 8 and not marker.exists():
            marker.write_text("")
            os._exit(1)
        self.layers = nn.Sequential(nn.Linear(shape.num_numbers, width), nn.ReLU(),
                                    nn.Linear(width, shape.num_outputs))

    def forward(self, numbers, categories):
        return self.layers(numbers)
'''


def test_a_trial_whose_process_dies_begins_again_and_the_others_go_on(swept, table, tmp_path):
    package = tmp_path / "own" / "dying"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(DYING)
    ran = swept(
        code=f"code: {{path: {tmp_path}/own}}",
        data=f"data: {{source: {table}, target: late, task: binary, features: {{x: number, z: number}}}}",
        model=f"model: {{kind: custom, class: 'dying.model:Dying', args: {{width: 4, folder: {tmp_path}}}}}",
        train="train: {epochs: 2, batch_size: 128}",
        tune="tune: {search: grid, space: {model.args.width: [4, 8, 12]}}",
    )  # fmt: skip
    assert [row["status"] for row in ran.rows("final")] == ["finished"] * 3
    assert "its process died; once more" in ran.told and (tmp_path / "died-8").exists()
