"""Sweeps over folds, against scikit-learn on the same folds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from heliostat.models.classic import design_matrix
from heliostat.plan.columns import resolve_columns
from heliostat.plan.plan import plan_job
from heliostat.spec.load import load_job
from heliostat.train.assignment import Assignment, open_data

DATA = "data:\n  source: {source}\n  target: {target}\n  task: {task}\n" \
       "  features: {{z: number, count: number, color: category}}\n" \
       "  split: {{method: random, folds: {folds}, test: 0.2}}"  # fmt: skip


def opened(ran, tmp_path, fold: int, config=None):
    """The data of a fold as the sweep's trials saw it."""
    job = load_job(ran.folder / ran.result["run"].split("/")[1] / "job.yaml").replace(config or {})
    plan = plan_job(job)
    return open_data(
        Assignment(
            job=job.spec.model_dump(mode="json", by_alias=True),
            columns=resolve_columns(job, plan.catalog),
            prepared=str(tmp_path / "s" / "prepared" / plan.prepared_digest),
            data_digest="d", code=None, code_digest=f"test {fold}", model_folder=None, fold=fold,
        )
    )  # fmt: skip


def matrix(data, rows, encoding):
    inputs = data.reader.inputs(np.asarray(rows))
    return design_matrix(inputs.numbers, inputs.categories, data.shape.cardinalities, encoding)


def test_a_grid_over_a_forest_is_scikit_learns_grid_search(swept, table, tmp_path):
    grid = {"n_estimators": [10, 30], "max_depth": [2, 5], "min_samples_split": [2, 20]}
    space = ", ".join(f"model.{key}: {values}" for key, values in grid.items())
    ran = swept(
        data=DATA.format(source=table, target="late", task="binary", folds=3),
        model="model: {kind: forest}", train="", objective="objective: accuracy",
        tune=f"tune: {{search: grid, space: {{{space}}}}}",
    )  # fmt: skip
    folds = [opened(ran, tmp_path, fold) for fold in range(3)]
    rows = np.sort(np.concatenate([data.rows("validation") for data in folds]))
    # A tree sees the fold's own codes: the same here in each, as every fold has all values.
    whole = matrix(folds[0], rows, "codes")
    assert all(np.array_equal(matrix(data, rows, "codes"), whole) for data in folds)
    splits = [
        tuple(np.searchsorted(rows, data.rows(side)) for side in ("train", "validation"))
        for data in folds
    ]
    search = GridSearchCV(
        RandomForestClassifier(random_state=3), grid, cv=splits, scoring="accuracy", refit=False
    ).fit(whole, folds[0].reader.targets(rows))
    best = {key.split(".")[1]: value for key, value in ran.result["best"]["config"].items()}
    assert best == search.best_params_
    ours = {tuple(sorted(row["config"].items())): row for row in ran.final.values()}
    for index, parameters in enumerate(search.cv_results_["params"]):
        row = ours[tuple(sorted((f"model.{k}", v) for k, v in parameters.items()))]
        theirs = [search.cv_results_[f"split{fold}_test_score"][index] for fold in range(3)]
        assert [fold["accuracy"] for fold in row["folds"]] == pytest.approx(theirs, abs=1e-12)
        assert row["score"] == pytest.approx(np.mean(theirs), abs=1e-12)
        assert row["uncertainty"] == pytest.approx(np.std(theirs, ddof=1) / np.sqrt(3))
    # The final model has seen the rows of all folds.
    assert ran.result["metrics"]["validation"]["accuracy"] == pytest.approx(search.best_score_)
    assert "is trained on the rows of all folds" in ran.told


def test_ridges_from_one_gram_matrix_are_scikit_learns(swept, table, tmp_path):
    ran = swept(
        data=DATA.format(source=table, target="amount", task="regression", folds=3),
        model="model: {kind: linear}", train="", objective="objective: rmse",
        tune="tune: {trials: 12, space: {model.alpha: {low: 0.001, high: 1000.0, log: true}}}",
    )  # fmt: skip
    assert len(ran.final) == 12
    for fold in range(3):
        data = opened(ran, tmp_path, fold)
        sides = [(matrix(data, data.rows(side), "one_hot").astype(np.float64),
                  data.reader.targets(data.rows(side))) for side in ("train", "validation")]  # fmt: skip
        for row in ran.final.values():
            fit = Ridge(alpha=row["config"]["model.alpha"]).fit(*sides[0])
            errors = fit.predict(sides[1][0]) - sides[1][1]
            assert row["folds"][fold]["rmse"] == pytest.approx(
                np.sqrt(np.mean(errors**2)), rel=1e-5
            )


@pytest.mark.slow
def test_asha_goes_by_the_mean_of_the_folds(swept, table):
    ran = swept(
        data=DATA.format(source=table, target="late", task="binary", folds=2),
        model="model: {kind: mlp, hidden: [8]}", train="train: {epochs: 6, batch_size: 128}",
        tune="tune: {trials: 5, space: {train.optimizer.learning_rate: {low: 0.0001, high: 0.1, log: true}}, "
        "scheduler: {name: asha, grace_period: 2, reduction_factor: 2}}",
    )  # fmt: skip
    statuses = [row["status"] for row in ran.final.values()]
    assert len(statuses) == 5 and set(statuses) == {"cut", "finished"}
    for row in ran.final.values():
        assert len(row["folds"]) == 2 and row["uncertainty"] is not None
        assert row["score"] == pytest.approx(np.mean([fold["auc"] for fold in row["folds"]]))
    assert {(row["fold"], row["rung"]) for row in ran.rows("rung")} >= {(0, 2), (1, 2)}
