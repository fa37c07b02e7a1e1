"""N workers equal one: the same batches, the same losses, for boosting the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heliostat.parallel.world import SoloWorld
from heliostat.train import quantised
from heliostat.train.assignment import Assignment, RunPlace
from heliostat.train.control import NoControl
from heliostat.train.job import train_events
from tests.conftest import write_table
from tests.data.packing import plan_of, prepare_here

MLP = "model: {kind: mlp, hidden: [16, 16], dropout: 0.2, norm: NORM}"
MLP_TRAIN = "train: {epochs: 8, batch_size: 64, optimizer: {learning_rate: 0.01}}"
BOOSTED = "model: {kind: xgboost, max_depth: 4, subsample: 0.7, colsample_bytree: 0.8}"


TRANSFORMER = "model: {kind: tabular_transformer, d_model: 16, nhead: 2, dropout: 0.2}"


@pytest.mark.parametrize("norm", ["layer", "batch", "transformer"])
def test_networks_have_the_same_loss_curve(trained, norm):
    model = TRANSFORMER if norm == "transformer" else MLP.replace("NORM", norm)
    parts = {"model": model, "train": MLP_TRAIN}
    losses, metrics, _ = trained(1, **parts)
    assert len(losses) >= 100 and losses[-1] < losses[0]
    for size in (2, 3):
        others, other_metrics, _ = trained(size, **parts)
        # Batch statistics amplify rounding: a hair more room for it, over the same 100 steps.
        np.testing.assert_allclose(
            others[:100], losses[:100], rtol=1e-3 if norm == "batch" else 1e-4
        )
        assert other_metrics["test"]["auc"] == pytest.approx(metrics["test"]["auc"], abs=2e-3)


def test_micro_batches_on_several_ranks_change_nothing(trained):
    parts = {"model": MLP.replace("NORM", "layer"), "train": MLP_TRAIN.replace("8,", "2,", 1)}
    losses, _, _ = trained(1, **parts)
    others, _, _ = trained(2, **parts, scale="scale: {micro_batch_size: 9}")
    np.testing.assert_allclose(others, losses, rtol=1e-4)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_boosters_are_the_same_bytes(trained, table, task):
    target = {"binary": "late", "multiclass": "kind", "regression": "amount"}[task]
    data = f"data:\n  source: {table}\n  target: {target}\n  task: {task}\n"
    data += "  features: {x: number, z: number, color: category}\n  weight: count\n"
    data += "" if task == "regression" else "  class_weights: balanced\n"
    parts = {"data": data, "model": BOOSTED, "train": "train: {rounds: 25, validate_every: 5}"}
    losses, metrics, folder = trained(1, **parts)
    booster = (folder / "booster.ubj").read_bytes()
    for size in (2, 3):
        others, other_metrics, other = trained(size, **parts)
        assert (other / "booster.ubj").read_bytes() == booster
        np.testing.assert_allclose(others, losses, rtol=1e-12)
        assert other_metrics["test"] == metrics["test"]  # to the bit: gathered, then computed


@pytest.mark.parametrize("target, task", [("late", "binary"), ("amount", "regression")])
def test_the_order_in_which_rows_are_laid_changes_no_byte(
    tmp_path, trained, monkeypatch, target, task
):
    """Trials lay them, on two ranks each its own, if there are enough; a short training takes them
    as they are.
    """
    large = tmp_path / "large"
    num_rows = 3 * quantised.LEAST_LAID_ROWS
    write_table(large, num_files=1, rows_per_file=num_rows, rows_per_group=num_rows)
    parts = {
        "data": f"data: {{source: {large}, target: {target}, task: {task}, weight: count}}",
        "model": BOOSTED,
        "train": "train: {rounds: 6, validate_every: 2}",
    }
    losses, metrics, folder = trained(1, final=False, **parts)
    booster = (folder / "booster.ubj").read_bytes()
    others, other_metrics, other = trained(2, final=False, **parts)
    assert (other / "booster.ubj").read_bytes() == booster and other_metrics == metrics
    np.testing.assert_allclose(others, losses, rtol=1e-12)
    plan = plan_of(tmp_path / "job.yaml")
    as_they_are = Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
        prepared=str(prepare_here(plan, tmp_path / "prepared", monkeypatch).folder),
        data_digest="d", code=None, code_digest="c", model_folder=str(tmp_path / "as-they-are"),
    )  # fmt: skip
    events = list(train_events(as_they_are, SoloWorld(), NoControl()))
    assert events[-1].metrics["validation"] == metrics["validation"]
    assert (tmp_path / "as-they-are" / "booster.ubj").read_bytes() == booster


def test_a_rank_with_no_row_of_a_batch_keeps_step(trained, table):
    """Three ranks, batches of three weighted rows and a last one of a single row."""
    parts = {
        "model": MLP.replace("NORM", "layer"),
        "train": "train: {steps: 60, batch_size: 3, validate_every: 60}",
        "data": f"data:\n  source: {table}\n  target: late\n  task: binary\n  weight: count\n"
        "  features: {x: number, z: number, color: category}\n",
    }
    losses, _, _ = trained(1, **parts)
    others, _, _ = trained(3, **parts)
    np.testing.assert_allclose(others, losses, rtol=1e-4)


@pytest.mark.parametrize(
    "target, task", [("late", "binary"), ("kind", "multiclass"), ("amount", "regression")]
)
@pytest.mark.parametrize("sampled", [True, False])
def test_an_interrupted_booster_is_the_same_bytes(
    tmp_path, trained, table, monkeypatch, target, task, sampled
):
    """Stop at any round. With sampled columns, whose sampler keeps state, the last segment's begin
    is resumed from; else the very round.
    """
    from heliostat.storage.lease import Lease
    from tests.train.test_loop import StopAt

    parts = {
        "model": BOOSTED if sampled else "model: {kind: xgboost, max_depth: 4, subsample: 0.8}",
        "train": "train: {rounds: 50, validate_every: 5}",
        "data": f"data: {{source: {table}, target: {target}, task: {task}}}",
    }
    _, metrics, folder = trained(1, **parts)
    lease = Lease.acquire(tmp_path / "lease")
    place = RunPlace(str(tmp_path / "checkpoints"), str(tmp_path / "lease"), lease.token)
    plan = plan_of(tmp_path / "job.yaml")
    prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)
    base = Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
        prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
        model_folder=str(tmp_path / "resumed"), place=place,
    )  # fmt: skip
    first = list(train_events(base, SoloWorld(), StopAt(32)))
    stopped = 20 if sampled else 33
    assert first[-1].step == stopped and not Path(base.model_folder).exists()
    second = list(train_events(replace(base), SoloWorld(), NoControl()))
    assert second[0].step == stopped and second[-1].metrics == metrics
    resumed = (tmp_path / "resumed" / "booster.ubj").read_bytes()
    assert resumed == (folder / "booster.ubj").read_bytes()


def test_a_trial_on_two_ranks_is_scored_by_its_best_weights_on_both(tmp_path, trained):
    """Its last weights, of after the best evaluation, are far worse."""
    from heliostat.storage.lease import Lease

    parts = {
        "model": MLP.replace("NORM", "layer"),
        "train": "train: {epochs: 12, batch_size: 128, early_stopping: {patience: 2}, "
        "optimizer: {learning_rate: 0.3}}",
    }
    found = {}
    for name, size, cut in (
        ("alone", 1, {}), ("data", 2, {}), ("shard", 2, {"shard": 2}),
        ("tensor", 2, {"tensor": 2}), ("stages", 2, {"pipeline": 2}),
    ):  # fmt: skip
        lease = Lease.acquire(tmp_path / f"lease-{name}")
        folder, held = str(tmp_path / f"checkpoints-{name}"), str(tmp_path / f"lease-{name}")
        place = RunPlace(folder, held, lease.token, keeps_best=False)
        scale = {"scale": f"scale: {{workers: {size}, parallel: {cut}}}"}
        _, found[name], _ = trained(size, place=place, name=name, **parts, **scale)
    for name in ("data", "shard", "tensor", "stages"):
        for side in ("validation", "test"):
            assert found[name][side]["auc"] == pytest.approx(found["alone"][side]["auc"], abs=2e-3)
