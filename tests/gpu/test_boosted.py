"""XGBoost on a GPU grows the trees that it grows on the CPU, or as good ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xgboost

from heliostat.train.artifact import load_model
from heliostat.train.assignment import open_data


@pytest.fixture(autouse=True)
def _has_cuda(device) -> None:
    if device == "cuda" and not xgboost.build_info()["USE_CUDA"]:
        pytest.skip("this XGBoost is built without CUDA")


@pytest.mark.parametrize(
    ("target", "task", "metric"),
    [
        ("late", "binary", "log_loss"),
        ("kind", "multiclass", "log_loss"),
        ("amount", "regression", "rmse"),
    ],
)
def test_trees_are_as_good_as_those_of_the_cpu(
    target, task, metric, train, table, device, monkeypatch
):
    parts = {
        "data": f"data: {{source: {table}, target: {target}, task: {task},"
        " features: {x: number, z: number, color: category}}",
        "model": "model: {kind: xgboost, max_depth: 4, subsample: 0.8, colsample_bytree: 0.7}",
        "train": "train: {rounds: 30, validate_every: 10}",
    }
    ours, theirs = (train(where, **parts) for where in (device, "cpu"))
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
    assert ours.metrics["test"][metric] == pytest.approx(theirs.metrics["test"][metric], rel=2e-2)
    inputs = open_data(ours.assignment).reader.inputs(np.arange(500))
    scores = []
    for where in (device, "cpu"):
        monkeypatch.setenv("HELIOSTAT_DEVICE", where)
        predictor = load_model(ours.folder).predictor
        config = json.loads(predictor.booster.save_config())
        assert config["learner"]["generic_param"]["device"].startswith(where)
        scores.append(predictor.scores(inputs.numbers, inputs.categories))
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6)
