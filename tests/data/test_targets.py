"""What the targets of a split allow: the same sentences from a plan and from a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.data.inspect import inspected
from heliostat.data.prepare import prepare
from heliostat.data.split import split_rows
from heliostat.data.targets import check_split
from heliostat.errors import DataError
from heliostat.plan.plan import plan_job
from heliostat.spec.load import load_job

NUM_ROWS = 400
MLP = "{kind: mlp, hidden: [4]}"


@pytest.fixture
def look(tmp_path, make_job):
    """What a plan, and then a run's first phases, say of a job over some columns."""

    def both(columns, data="", **parts):
        rows = len(next(iter(columns.values())))
        x = np.random.default_rng(0).normal(size=rows)
        pq.write_table(pa.table({"x": x, **columns}), tmp_path / "d.parquet", row_group_size=150)
        keys = f"data: {{source: {tmp_path}/d.parquet, target: y, features: {{x: number}}, {data}}}"
        path = make_job(**{"data": keys, "model": "model: xgboost", "train": ""} | parts)
        plan = plan_job(load_job(path))
        spec = plan.job.spec
        told = []
        for way in ("plan", "run"):
            try:
                if way == "plan":
                    told.append(inspected(plan).notes)
                else:
                    prepared = prepare(plan, tmp_path / "prepared", 0, lambda done, total: None)
                    split = split_rows(prepared, plan.columns, spec.data, spec.seed)
                    told.append(check_split(spec, plan.columns, prepared, split))
            except DataError as error:
                told.append(str(error))
        assert told[0] == told[1]
        return told[0]

    return both


def binary(num_positives: int, rows: int = NUM_ROWS):
    values = np.zeros(rows, int)
    values[np.random.default_rng(1).permutation(rows)[:num_positives]] = 1
    return {"y": values}


STOPS = {"train": "train: {rounds: 30, early_stopping: {patience: 3}}"}
TUNES = {"tune": "tune: {search: grid, space: {model.max_depth: [1, 2]}}"}
FOLDS = "split: {folds: 3, method: stratified}"


@pytest.mark.parametrize(
    "parts", [STOPS, TUNES, {"model": f"model: {MLP}", "train": "train: {schedule: plateau}"}]
)
def test_an_objective_that_does_not_exist_decides_nothing(look, parts):
    told = look(binary(1), "task: binary", **parts)
    assert "`auc` does not exist on the 60 validation rows" in told
    assert "it has no row of class `1` (60 of `0`)" in told and "`objective: log_loss`" in told
    fine = look(binary(1), "task: binary", **parts, objective="objective: log_loss")
    assert any("precision, recall, f1, auc do not exist on validation" in note for note in fine)


def test_where_nothing_goes_by_a_metric_its_absence_is_told(look):
    assert look(binary(200), "task: binary") == ()
    (validation, test) = look(binary(1), "task: binary")
    assert "do not exist on validation: it has no row of class `1`" in validation
    assert "do not exist on test" in test


def test_every_fold_is_looked_at(look):
    told = look(binary(2), f"task: binary, {FOLDS}", **STOPS)
    assert "validation rows of fold" in told and "`auc` does not exist" in told
    assert look(binary(30), f"task: binary, {FOLDS}", **STOPS) == ()
    # With one positive row, the fold that validates on it trains on none.
    told = look(binary(1), "task: binary, split: {folds: 3, test: 0.0}")
    assert "`y` has 1 class in the training rows (0); task `binary` needs two classes" in told


def ones(value=1.0):
    return {"y": np.full(NUM_ROWS, value)}


@pytest.mark.parametrize(
    ("columns", "data", "sentence"),
    [
        (ones(5.0), "task: regression", "`y` is 5 in all 280 training rows: there is nothing to learn"),
        (ones(), "task: binary", "has 1 class in the training rows (1); task `binary` needs two"),
        (ones(), "task: multiclass", "needs at least two classes; there is nothing to learn"),
        ({"y": np.arange(NUM_ROWS) % 3}, "task: binary", "has 3 classes in the training rows (0, 1, 2); "
         "task `binary` needs two classes; write `task: multiclass`"),
        ({"y": np.arange(NUM_ROWS) / 2}, "task: multiclass", ".5, and a class is a whole number"),
        (binary(9), "task: binary, positive: 2", "`2` is no class of `y`; one of: 0, 1"),
        ({"y": np.where(np.arange(NUM_ROWS) == 390, "z", np.where(np.arange(NUM_ROWS) % 2, "p", "q")),
          "t": np.arange(NUM_ROWS)}, "task: multiclass, split: {method: time, column: t}",
         "the test rows hold classes of `y` that no training row has, with so many rows: `z` (1)"),
        (binary(90) | {"w": np.zeros(NUM_ROWS)}, "task: binary, weight: w", "`w` is 0 in all 280 training rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(look, columns, data, sentence):
    assert sentence in look(columns, data)


@pytest.mark.parametrize("row", range(8))
def test_a_count_is_never_negative_on_any_side(look, row):
    values = np.random.default_rng(2).poisson(2.0, 40).astype(float)
    poisson = {"model": f"model: {MLP}", "train": "train: {loss: poisson}"}
    assert look({"y": values}, "task: regression", **poisson) == ()
    values[row] = -2
    told = look({"y": values}, "task: regression", **poisson)
    assert "`y` is -2 in the " in told and "loss `poisson` is for counts" in told


def test_a_constant_side_has_no_r2(look):
    times = np.arange(NUM_ROWS)
    late = {"y": np.where(times < 280, times, 7).astype(float), "t": times}
    split = "task: regression, split: {method: time, column: t}"
    told = look(late, split, **STOPS, objective="objective: r2")
    assert (
        "`r2` does not exist on the 60 validation rows" in told
        and "its target is 7 in every row" in told
    )
    assert [note.split(":")[0] for note in look(late, split, **STOPS)] == [
        "r2 does not exist on validation", "r2 does not exist on test"
    ]  # fmt: skip


GROUPS = {"y": np.arange(NUM_ROWS) % 2, "x2": np.arange(NUM_ROWS)}


@pytest.mark.parametrize(
    ("column", "split", "sentence"),
    [
        (["one"] * NUM_ROWS, "group", "`g` is `one` in 400 rows, the only one"),
        (["huge"] * 390 + list("abcdefghij"), "group", "`g` is `huge` in 390 rows, the largest of 11"),
        (["one"] * NUM_ROWS, "hash", "`g` is `one` in 400 rows, the only one"),
        (np.full(NUM_ROWS, np.datetime64("2024-05-01T06:00", "us")), "time",
         "`g` is `2024-05-01T06:00:00` in 400 rows, the only time"),
        (np.full(NUM_ROWS, 3), "time", "`g` is `3.0` in 400 rows, the only time"),
    ],
)  # fmt: skip
def test_what_keeps_rows_together_is_named(look, column, split, sentence):
    told = look(GROUPS | {"g": column}, f"task: binary, split: {{method: {split}, column: g}}")
    assert sentence in (told if isinstance(told, str) else " ".join(told))


def test_a_class_of_one_row_trains_where_a_split_is_stratified(look):
    values = np.where(np.arange(300) % 2, "p", "q").astype(object)
    values[5], values[6], values[7] = "r", "t", "t"
    notes = look({"y": pa.array(list(values))}, "task: multiclass, split: stratified")
    assert all("auc does not exist" in note for note in notes)


def test_a_plan_of_a_small_source_counts_its_rows(make_job):
    plan = plan_job(load_job(make_job(), settings=["data.clean.duplicates=drop"]))
    exact = inspected(plan)
    assert exact.counts is not None and exact.counts.exact and not plan.counts.exact
    assert exact.catalog is plan.catalog
    large = replace(
        plan,
        catalog=replace(
            plan.catalog, files=plan.catalog.files * 2_000, footers=plan.catalog.footers * 2_000
        ),
    )
    assert inspected(large) is large  # it would take long to look into
