"""Each loss is least where theory says, and what a job asks of it reaches the model."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from heliostat.data.fit import fit_encoder
from heliostat.data.pack import pack_table, unpack
from heliostat.errors import DataError, PlanError
from heliostat.spec.train import LossSpec
from heliostat.train.artifact import load_model
from heliostat.train.losses import loss_sum
from tests.data.packing import plan_of, prepare_here


def least(name: str, targets: np.ndarray, **keys: float) -> float:
    """The one output that makes the loss least over all targets."""
    loss = loss_sum(LossSpec(name=name, **keys), "regression")
    outputs = torch.linspace(-3, 12, 3001)
    y, ones = torch.from_numpy(targets).float(), torch.ones(len(targets))
    sums = [float(loss(x.expand(len(targets), 1), y, ones)) for x in outputs]
    return float(outputs[int(np.argmin(sums))])


def test_regression_losses_are_least_at_mean_median_quantile_and_log_rate():
    targets = np.random.default_rng(0).gamma(2.0, 1.5, 501)
    assert least("mse", targets) == pytest.approx(targets.mean(), abs=0.01)
    assert least("mae", targets) == pytest.approx(np.median(targets), abs=0.02)
    assert least("huber", targets, delta=100.0) == pytest.approx(targets.mean(), abs=0.01)
    for share in (0.1, 0.9):
        found = least("quantile", targets, quantile=share)
        assert found == pytest.approx(np.quantile(targets, share), abs=0.03)
    counts = np.round(targets)
    assert least("poisson", counts) == pytest.approx(np.log(counts.mean()), abs=0.01)


@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 4)])
def test_focal_and_smoothed_losses_follow_their_formulas(task, classes):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(50, classes, generator=generator)
    targets = torch.randint(0, max(2, classes), (50,), generator=generator)
    weights = torch.rand(50, generator=generator)
    both = torch.cat([torch.zeros(50, 1), outputs], 1) if classes == 1 else outputs
    logs = both.log_softmax(1)
    own = logs.gather(1, targets[:, None])[:, 0]
    entropy = loss_sum(LossSpec(), task)(outputs, targets, weights)
    assert float(entropy) == pytest.approx(float((-own * weights).sum()), rel=1e-5)
    focal = loss_sum(LossSpec(name="focal", gamma=1.5), task)(outputs, targets, weights)
    expected = ((1 - own.exp()) ** 1.5 * -own * weights).sum()
    assert float(focal) == pytest.approx(float(expected), rel=1e-5)
    smooth = loss_sum(LossSpec(label_smoothing=0.2), task)(outputs, targets, weights)
    expected = ((-0.8 * own - 0.2 * logs.mean(1)) * weights).sum()
    assert float(smooth) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.loss=focal", "`focal` is no loss for task `regression`"),
        ("train.loss={name: mse, quantile: 0.3}", "loss `mse` does not use it"),
        ("train.loss={name: mae, label_smoothing: 0.1}", "loss `mae` does not use it"),
        ("train.schedule={name: cosine, patience: 2}", "`cosine` does not use it"),
    ],
)
def test_keys_that_a_loss_or_a_schedule_does_not_use_are_refused(
    make_job, table, setting, sentence
):
    data = f"data: {{source: {table}, target: amount, task: regression, features: {{x: number}}}}"
    job = make_job(data=data, model="model: {kind: mlp}", train="")
    with pytest.raises(PlanError, match=sentence):
        plan_of(job, setting)


def test_a_quantile_and_a_count_are_learned(trained, table):
    """Predictions in the target's own units: nine tenths lie below; rates are never negative."""
    features = "  features: {x: number, z: number, color: category}\n"
    parts = {"model": "model: {kind: mlp, hidden: [16]}"}
    keys = "epochs: 25, batch_size: 64, optimizer: {learning_rate: 0.01}"
    for target, loss in (("amount", "{name: quantile, quantile: 0.9}"), ("count", "poisson")):
        parts["data"] = (
            f"data:\n  source: {table}\n  target: {target}\n  task: regression\n{features}"
        )
        parts["train"] = f"train: {{{keys}, loss: {loss}}}"
        _, metrics, folder = trained(1, name=target, **parts)
        model, rows = load_model(folder), pq.read_table(table)
        scores = model.scores(unpack(pack_table(rows, model.packed_columns)[0]))
        truth = rows[target].to_numpy()
        if target == "amount":
            assert np.mean(truth < scores) == pytest.approx(0.9, abs=0.03)
        else:
            assert scores.min() > 0 and scores.mean() == pytest.approx(truth.mean(), abs=0.15)


def test_negative_counts_are_no_counts(make_job, table, tmp_path, monkeypatch):
    data = f"data: {{source: {table}, target: z, task: regression, features: {{x: number}}}}"
    plan = plan_of(make_job(data=data, model="model: {kind: mlp}", train="train: {loss: poisson}"))
    prepared = prepare_here(plan, tmp_path / "p", monkeypatch)
    with pytest.raises(DataError, match="negative in training"):
        fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(prepared.num_rows))
