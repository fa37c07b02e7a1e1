"""Statistics of every fold from one pass: NumPy's, and without a look at other rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.data import prepare as prepare_module
from heliostat.data import statistics as statistics_module
from heliostat.data import units
from heliostat.data.fit import fit_encoder
from heliostat.data.moments import Moments
from heliostat.data.statistics import gather_statistics
from heliostat.train import assignment as assignment_module
from heliostat.train.assignment import Assignment, open_data
from tests.data.packing import plan_of, prepare_here


@settings(deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 300), st.sampled_from([0.0, 1.0, 1e6]),
    st.lists(st.integers(0, 300), max_size=6), st.floats(0, 0.9),
)  # fmt: skip
def test_merged_moments_are_numpys(seed, n, center, cuts, missing):
    rng = np.random.default_rng(seed)
    values = rng.normal(center, 1, (n, 3)).astype(np.float32)
    values[rng.random((n, 3)) < missing] = np.nan
    merged = Moments.nothing(3)
    for part in np.split(values, sorted(cut for cut in cuts if cut < n)):
        merged = merged.merge(Moments.of(part))
    doubles = values.astype(np.float64)
    for i in range(3):
        present = doubles[:, i][~np.isnan(doubles[:, i])]
        assert merged.count[i] == len(present)
        if len(present):
            assert merged.mean[i] == pytest.approx(present.mean(), rel=1e-7, abs=1e-6)
            assert merged.deviation[i] == pytest.approx(present.std(), rel=1e-5, abs=1e-6)
            assert (merged.low[i], merged.high[i]) == (present.min(), present.max())


@pytest.fixture
def folded(tmp_path, monkeypatch):
    """Open the folds of a table whose rows of one fold can be replaced by nonsense."""
    monkeypatch.setattr(units, "ROWS_PER_UNIT", 100)
    monkeypatch.setattr(prepare_module, "ROWS_PER_UNIT", 100)
    rng = np.random.default_rng(3)
    columns = {
        "a": rng.normal(5, 2, 900), "b": rng.integers(0, 9, 900).astype(float),
        "c": rng.choice(["x", "y", "z"], 900), "t": np.arange(900) // 3,
        "y": rng.random(900) < 0.5,
    }  # fmt: skip
    columns["a"][::11] = np.nan

    def build(name: str, split: str, spoiled=()):
        folder = tmp_path / name
        folder.mkdir()
        table = {key: np.array(value) for key, value in columns.items()}
        for row in spoiled:
            table["a"][row], table["b"][row], table["c"][row] = 1e9, -1e9, "nonsense"
        pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=70)
        job = tmp_path / f"{name}.yaml"
        job.write_text(
            f"name: t\ndata:\n  source: {folder}\n  target: y\n  task: binary\n"
            "  features: {a: {type: number, missing: mean}, b: {type: number, missing: median},"
            f" c: category}}\n  split: {split}\nmodel: {{kind: mlp}}\n"
        )
        plan = plan_of(job)
        prepared = prepare_here(plan, tmp_path / "prepared", monkeypatch)

        def open_fold(fold):
            return open_data(Assignment(
                job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
                prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
                model_folder=None, fold=fold,
            ))  # fmt: skip

        return open_fold

    return build


@pytest.mark.parametrize(
    "split", ["{method: random, folds: 3}", "{method: time, column: t, folds: 3, gap: 0.05}"]
)
def test_a_fold_learns_nothing_from_the_rows_it_is_judged_by(folded, split):
    whole = folded("whole", split)
    for fold in range(3):
        data = whole(fold)
        outside = np.concatenate([data.rows("validation"), data.rows("test")])
        spoiled = folded(f"spoiled-{fold}", split, outside)(fold)
        assert spoiled.encoder == data.encoder
        train = data.prepared.number("a")[data.rows("train")].astype(float)
        assert data.encoder.numbers[0].offset == pytest.approx(np.nanmean(train), rel=1e-6)
        assert data.encoder.numbers[0].scale == pytest.approx(np.nanstd(train), rel=1e-5)
    assert whole(0).encoder != whole(1).encoder


def test_all_folds_cost_one_pass(folded, monkeypatch):
    passes = []

    def counted(*arguments):
        passes.append(1)
        return gather_statistics(*arguments)

    monkeypatch.setattr(assignment_module, "gather_statistics", counted)
    opened = folded("once", "{method: stratified, folds: 5}")
    for fold in (0, 1, 2, 3, 4, None):
        opened(fold)
    assert len(passes) == 1


def test_quantiles_of_many_rows_come_from_a_sample_that_no_layout_changes(tmp_path, monkeypatch):
    rows, most = 60_000, 10_000
    monkeypatch.setattr(statistics_module, "MOST_EXACT_ROWS", most)
    monkeypatch.setattr(units, "ROWS_PER_UNIT", 7_000)
    values = np.random.default_rng(3).lognormal(size=rows).astype(np.float32)
    found = []
    for group in (500, 30_000):
        folder = tmp_path / f"by-{group}"
        (folder / "data").mkdir(parents=True)
        table = pa.table({"a": values, "y": np.arange(rows) % 2})
        pq.write_table(table, folder / "data" / "a.parquet", row_group_size=group)
        job = folder / "job.yaml"
        job.write_text(
            f"name: t\ndata:\n  source: {folder}/data\n  target: y\n  task: binary\n"
            "  features: {a: {type: number, missing: median, clip: {low: 0.1, high: 0.9}}}\n"
            "model: {kind: mlp}\n"
        )
        plan = plan_of(job)
        prepared = prepare_here(plan, folder / "prepared", monkeypatch)
        encoder, touched = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(rows))
        found.append(encoder)
    assert found[0] == found[1]
    number = found[0].numbers[0]
    for value, rank in ((number.low, 0.1), (number.fill, 0.5), (number.high, 0.9)):
        assert abs((values < value).mean() - rank) < 2 / np.sqrt(most)
        assert value != pytest.approx(np.quantile(values, rank), rel=1e-9)
    (clipped,) = [count for what, count in touched.items() if "outliers" in what]
    assert clipped == pytest.approx(0.2 * rows, rel=0.05)
