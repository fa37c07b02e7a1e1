"""The public command on a GPU: a run, predictions of it, two trials on one card."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from tests.conftest import job_text
from tests.gpu.conftest import CODE


@pytest.fixture
def job(tmp_path, table, device):
    """Write a job whose workers hold `gpus`; on the CPU they hold none."""

    def write(gpus: float, **parts: str):
        held = gpus if device == "cuda" else 0
        path = tmp_path / "job.yaml"
        scale = f"scale: {{resources: {{cpu: 0.5, gpu: {held}}}}}"
        text = job_text(table, storage=f"storage: {tmp_path}/s", scale=scale, **parts)
        path.write_text(text)
        return path

    return write


def test_a_run_trains_on_the_card_and_its_model_predicts_there(
    job, heliostat, table, tmp_path, device
):
    train = "train: {epochs: 2, batch_size: 128, compile: COMPILE, precision: bfloat16}"
    path = job(
        1, model="model: {kind: mlp, hidden: [32], dropout: 0.1}",
        train=train.replace("COMPILE", str(device == "cuda").lower()),
    )  # fmt: skip
    done = heliostat("run", path, "--json", timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["test"]["auc"] > 0.6
    assert (result["hours"]["gpu"] > 0) == (device == "cuda")
    scores = {}
    for where in dict.fromkeys((device, "cpu")):
        out = tmp_path / f"scores-{where}"
        told = heliostat(
            "predict", result["run"], "--data", table, "--out", out, "--storage", tmp_path / "s",
            env={"HELIOSTAT_DEVICE": where},
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        found = ds.dataset(out).to_table()
        name = next(name for name in found.column_names if name.startswith("probability"))
        scores[where] = found[name].to_numpy()
    np.testing.assert_allclose(scores[device], scores["cpu"], rtol=1e-4, atol=1e-5)


def test_a_trial_that_needs_more_than_the_card_fails_alone(job, heliostat, device):
    """Two trials at once, each on half of the card; one of three asks for more than all of it."""
    path = job(
        0.5, code=f"code: {{path: {CODE}}}",
        model="model: {kind: custom, class: 'mine.nets:Hungry', args: {share: 0.1, rows: 64}}",
        train="train: {steps: 30, batch_size: 64, validate_every: 30}",
        tune="tune: {search: grid, concurrency: 2, space: {model.args.share: [0.1, 0.2, 1.5]}}",
        limits="limits: {failed_trials: 0.5}",
    )  # fmt: skip
    settings = [
        "--set",
        "data.features={x: number, z: number}",
        "--set",
        "scale.micro_batch_size=64",
    ]
    done = heliostat("run", path, *settings, "--json", timeout=230)
    assert done.returncode == 0, done.stderr
    ledger = yaml.safe_load(done.stdout)
    assert ledger["trials"]["run"] == 3, ledger["trials"]
    assert "memory ran out" in done.stderr
