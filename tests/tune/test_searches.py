"""Searches and schedulers by the command: a trial that pauses is the trial that never did."""

from __future__ import annotations

import pytest

MLP = "model: {kind: mlp, hidden: [8], dropout: 0.1}"
EPOCHS = "train: {epochs: 9, batch_size: 128, early_stopping: {patience: 4}}"
SPACE = (
    "{train.optimizer.learning_rate: {low: 0.001, high: 0.1, log: true}, model.dropout: [0.0, 0.2]}"
)


@pytest.mark.parametrize(
    "model, train, space",
    [
        (MLP, EPOCHS, SPACE),
        pytest.param(
            "model: {kind: xgboost, max_depth: 3, colsample_bytree: 0.7}", "train: {rounds: 9}",
            "{model.learning_rate: {low: 0.01, high: 0.5, log: true}}", marks=pytest.mark.slow,
        ),
    ],
    ids=["mlp", "xgboost"],
)  # fmt: skip
def test_a_promoted_trial_is_the_trial_that_never_paused(swept, model, train, space):
    asha = "{name: asha, mode: promote, grace_period: 1, reduction_factor: 3}"
    parts = {"model": model, "train": train}
    tune = f"tune: {{trials: 9, concurrency: 2, space: {space}, scheduler: SCHEDULER}}"
    paced = swept("paced", tune=tune.replace("SCHEDULER", asha), **parts)
    whole = swept("whole", tune=tune.replace("SCHEDULER", "none"), **parts).final
    ended = paced.final
    assert len(ended) == 9 and {row["status"] for row in ended.values()} == {"cut", "finished"}
    for row in ended.values():
        if row["status"] == "finished":
            assert row["metrics"] == whole[row["id"]]["metrics"]  # to the bit
    assert {row["rung"] for row in paced.rows("rung")} == {1, 3}
    counts = [sum(row["rung"] == rung for row in paced.rows("rung")) for rung in (1, 3)]
    assert counts[0] == 9 and 3 <= counts[1] < 9
    assert not list((paced.folder / "trials" / "checkpoints").glob("*"))
    best = paced.result["best"]
    assert ended[best["trial"]]["status"] == "finished"


@pytest.mark.slow
def test_tpe_with_asha_starts_from_another_run_and_grows(swept):
    parts = {"train": "train: {rounds: 9}"}
    space = "{model.learning_rate: {low: 0.01, high: 0.5, log: true}, model.max_depth: {low: 1, high: 6}}"
    first = swept("first", tune=f"tune: {{trials: 6, space: {space}}}", **parts)
    tune = (
        f"tune: {{search: tpe, trials: TRIALS, space: {space}, scheduler: asha, start_from: first}}"
    )
    second = swept("second", tune=tune.replace("TRIALS", "8"), **parts)
    assert "starts from first: 6 trials" in second.told
    rows = sorted(second.final.values(), key=lambda row: row["index"])
    assert rows[0]["config"] == first.result["best"]["config"] and len(rows) == 8
    before = second.rows("final")
    grown = swept("second", tune=tune.replace("TRIALS", "11"), **parts)
    assert grown.result["trials"] == {"run": 3, "reused": 8}
    assert [row for row in grown.rows("final") if row["index"] < 8] == before


def test_conditions_give_each_kind_its_own_keys(swept):
    space = (
        "{model.kind: [tree, forest], model.max_depth: [2, 3], "
        "model.n_estimators: {values: [5, 10], when: {model.kind: forest}}}"
    )
    ran = swept(
        model="model: {kind: tree}", train="", tune=f"tune: {{search: grid, space: {space}}}"
    )
    configs = [row["config"] for row in ran.final.values()]
    assert len(configs) == 2 + 2 * 2
    assert all(("model.n_estimators" in c) == (c["model.kind"] == "forest") for c in configs)


@pytest.mark.slow
def test_a_fused_sweep_says_how_it_trains_and_finds_the_same(swept):
    parts = {"model": "model: {kind: mlp, hidden: [16], dropout: 0.1}",
             "train": "train: {epochs: 4, batch_size: 64}"}  # fmt: skip
    tune = (
        f"tune: {{trials: 8, space: {SPACE}, fuse: FUSE, scheduler: {{name: asha, mode: promote}}}}"
    )
    fused = swept("fused", tune=tune.replace("FUSE", "true"), **parts)
    alone = swept("alone", tune=tune.replace("FUSE", "false"), **parts)
    assert "fuse      cohorts of " in fused.told
    assert any("cohorts of" in row.get("fuse", "") for row in fused.rows("sweep"))
    first = {row["id"]: row["score"] for row in alone.rows("rung") if row["rung"] == 1}
    for row in fused.rows("rung"):
        if row["rung"] == 1:
            assert row["score"] == pytest.approx(first[row["id"]], abs=1e-4)
    refused = swept("batch", model="model: {kind: mlp, hidden: [8], norm: batch}",
                    train="train: {epochs: 1, batch_size: 400}",
                    tune="tune: {trials: 2, fuse: true, space: {train.optimizer.learning_rate: [0.01, 0.02]}}")  # fmt: skip
    assert "trained one by one: `norm: batch` keeps statistics" in refused.told
