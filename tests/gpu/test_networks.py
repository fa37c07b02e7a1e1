"""Networks learn on a GPU what they learn on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heliostat.models.randomness import HashDropout, Randomness
from heliostat.storage.lease import Lease
from heliostat.train.artifact import load_model
from heliostat.train.assignment import RunPlace, open_data
from tests.gpu.conftest import GPT
from tests.train.conftest import StopAfter

TRAIN = "train: {steps: 20, batch_size: BATCH, validate_every: 10, clip_norm: 1.0,"
TRAIN += " optimizer: {learning_rate: 0.003}"
MODELS = {
    "mlp": "{kind: mlp, hidden: [32, 32], dropout: 0.2",
    "mlp of batch norms": "{kind: mlp, hidden: [32, 32], norm: batch",
    "tabular_transformer": "{kind: tabular_transformer, d_model: 32, nhead: 4, dropout: 0.2",
    "gpt": GPT + ", dropout: 0.2",
    "custom": "{kind: custom, class: 'mine.nets:Net'",
}


@pytest.fixture
def parts(texts):
    """The parts of a job, by the model's name."""

    def of(model: str, more: str = "") -> dict[str, str]:
        own = {"model": f"model: {MODELS[model]}}}"}
        own["train"] = TRAIN.replace("BATCH", "8" if model == "gpt" else "128") + more + "}"
        own |= {"code": "code: {path: .}"} if model == "custom" else {}
        return own | ({"data": texts} if model == "gpt" else {})

    return of


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_those_of_the_cpu(model, train, parts, device):
    ours, theirs = (train(where, **parts(model)) for where in (device, "cpu"))
    assert len(ours.losses) == 20
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
    for side, values in theirs.metrics.items():
        assert ours.metrics[side]["log_loss"] == pytest.approx(values["log_loss"], rel=2e-3)


def test_dropout_draws_the_same_on_every_device(device):
    rows = torch.arange(1_000) * 7_919
    masks = []
    for where in (device, "cpu"):
        randomness = Randomness(seed=5)
        drop = HashDropout(0.3, 200, layer=2, randomness=randomness).to(where).train()
        randomness.set(11, rows.to(where))
        masks.append(drop(torch.ones(1_000, 200, device=where)).cpu())
    assert torch.equal(*masks)


@pytest.mark.parametrize(
    ("what", "tolerance"),
    [("bfloat16", 0.02), ("float16", 0.005), ("compile", 2e-3), ("recompute", 1e-5)],
)
def test_cheaper_steps_have_the_same_loss(what, tolerance, train, parts, device):
    model = "mlp" if (device, what) == ("cpu", "compile") else "gpt"  # C++ takes long to compile
    more = {"compile": ", compile: true", "recompute": ""}.get(what, f", precision: {what}")
    scale = {"activation_checkpointing": what == "recompute"}
    plain = train(device, "plain", **parts(model))
    ours = train(device, "ours", scale=scale, **parts(model, more))
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=tolerance)
    assert ours.losses[-1] < ours.losses[0]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_training_is_the_undisturbed_one_to_the_bit(
    precision, train, parts, device, tmp_path
):
    own = parts("gpt", f", precision: {precision}")
    torch.use_deterministic_algorithms(True)
    try:
        whole = train(device, "whole", **own)
        lease = Lease.acquire(tmp_path / "lease")
        place = RunPlace(str(tmp_path / "c"), str(tmp_path / "lease"), lease.token)
        stopped = train(device, "stopped", place=place, control=StopAfter(10), **own)
        resumed = train(device, "resumed", place=place, **own)
    finally:
        torch.use_deterministic_algorithms(False)
    step = stopped.events[-1].step
    assert 0 < step < 20 and resumed.events[0].step == step
    assert resumed.losses == whole.losses[step:]
    weights = [(one.folder / "weights.safetensors").read_bytes() for one in (whole, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("model", ["mlp", "tabular_transformer"])
def test_scores_are_those_of_the_cpu(model, train, parts, device, monkeypatch):
    trained = train(device, **parts(model))
    inputs = open_data(trained.assignment).reader.inputs(np.arange(500))
    scores = []
    for where in (device, "cpu"):
        monkeypatch.setenv("HELIOSTAT_DEVICE", where)
        predictor = load_model(trained.folder).predictor
        assert torch.device(predictor.device).type == where
        scores.append(predictor.scores(inputs.numbers, inputs.categories))
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)
