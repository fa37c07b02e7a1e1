"""Cleaning and transforms: fitted on training rows, the same in training and in predict."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.data.clean import clean_rows
from heliostat.data.encode import FIRST_VALUE, MISSING, UNKNOWN, Encoder
from heliostat.data.fit import fit_encoder, moments_of
from heliostat.data.pack import pack_table, unpack
from heliostat.data.reader import EpochBatches, RowReader
from heliostat.errors import DataError
from tests.data.packing import plan_of, prepare_here

N = 200


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(5)
    a = rng.normal(50, 10, N)
    a[::10] = np.nan
    color = np.array(["red", "green", "green"])[rng.integers(0, 3, N)].astype(object)
    color[::8] = None
    table = pa.table(
        {"a": a, "color": color, "b": rng.integers(0, 9, N), "late": rng.random(N) < 0.5}
    )
    (tmp_path / "d").mkdir()
    pq.write_table(table.slice(0, 90), tmp_path / "d" / "1.parquet", row_group_size=31)
    pq.write_table(table.slice(90), tmp_path / "d" / "2.parquet", row_group_size=64)
    return table


def prepared_with(tmp_path, monkeypatch, features: str, *settings: str, kind: str = "mlp"):
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: t\ndata:\n  source: {tmp_path}/d\n  target: late\n  task: binary\n"
        f"  features: {features}\nmodel: {{kind: {kind}}}\n"
    )
    plan = plan_of(job, *settings)
    return plan, prepare_here(plan, tmp_path / "prepared", monkeypatch)


def encode(tmp_path, monkeypatch, features: str, train, kind: str = "mlp"):
    plan, prepared = prepared_with(tmp_path, monkeypatch, features, kind=kind)
    encoder = fit_encoder(prepared, plan.columns, plan.job.spec, train)
    return encoder, RowReader(prepared, encoder).inputs(np.arange(N))


@pytest.mark.parametrize(
    ("missing", "filling"),
    [
        ("mean", np.mean), ("median", np.median), ("{constant: -7}", lambda present: -7.0),
        ("most_frequent", lambda present: np.unique(present)[0]),
    ],
)  # fmt: skip
def test_missing_numbers_are_filled_from_training_rows_only(
    tmp_path, monkeypatch, source, missing, filling
):
    train = np.arange(120)
    features = f"{{a: {{type: number, missing: {missing}, scale: none}}}}"
    encoder, inputs = encode(tmp_path, monkeypatch, features, train)
    raw = source["a"].to_numpy().astype(np.float32)
    expected = filling(raw[:120][~np.isnan(raw[:120])].astype(np.float64))
    assert inputs.numbers[10, 0] == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(inputs.numbers[~np.isnan(raw), 0], raw[~np.isnan(raw)])


def test_scaling_by_training_rows_only(tmp_path, monkeypatch, source):
    train = np.arange(60)
    raw = source["b"].to_numpy()
    _, standard = encode(tmp_path, monkeypatch, "{b: number}", train)
    assert np.allclose(standard.numbers[:, 0], (raw - raw[:60].mean()) / raw[:60].std(), atol=1e-5)
    _, unit = encode(tmp_path, monkeypatch, "{b: {type: number, scale: min_max}}", train)
    assert (unit.numbers[:60].min(), unit.numbers[:60].max()) == (0, 1)


def test_categories_have_an_unknown_and_a_missing_code(tmp_path, monkeypatch, source):
    color = source["color"].to_pylist()
    train = np.array([i for i, c in enumerate(color) if c != "red"])
    encoder, inputs = encode(tmp_path, monkeypatch, "{color: category}", train)
    codes = {"red": UNKNOWN, None: MISSING, "green": FIRST_VALUE}
    assert inputs.categories[:, 0].tolist() == [codes[c] for c in color]
    features = "{color: {type: category, missing: most_frequent}}"
    _, filled = encode(tmp_path, monkeypatch, features, train)
    assert filled.categories[:, 0].tolist() == [codes[c or "green"] for c in color]


def test_trees_keep_missing_numbers(tmp_path, monkeypatch, source):
    _, inputs = encode(tmp_path, monkeypatch, "{a: number}", np.arange(N), kind="xgboost")
    assert np.array_equal(np.isnan(inputs.numbers[:, 0]), np.isnan(source["a"].to_numpy()))


def test_predict_sees_exactly_what_training_saw(tmp_path, monkeypatch, source):
    """The raw rows through a stored encoder, and the prepared copy: the same bits."""
    plan, prepared = prepared_with(tmp_path, monkeypatch, "{a: number, b: number, color: category}")
    encoder = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(0, N, 2))
    trained = RowReader(prepared, encoder).inputs(np.arange(N))
    stored = Encoder.from_json(encoder.to_json())
    columns = [c for c in plan.columns.packed if c.name != "late"]
    served = stored.encode(unpack(pack_table(source, columns)[0]))
    assert np.array_equal(trained.numbers, served.numbers)
    assert np.array_equal(trained.categories, served.categories)


def test_cleaning_drops_and_counts(tmp_path, monkeypatch, source):
    doubled = pa.concat_tables([source, source.slice(0, 30)])
    pq.write_table(doubled, tmp_path / "d" / "1.parquet")
    (tmp_path / "d" / "2.parquet").unlink()
    features = "{a: {type: number, missing: drop}, b: number, color: category}"
    plan, prepared = prepared_with(tmp_path, monkeypatch, features, "data.clean.duplicates=drop")
    cleaned = clean_rows(prepared, plan.columns, plan.job.spec.data.clean)
    assert cleaned.dropped == {"a: missing": 23, "duplicate rows": 27}
    assert cleaned.rows.max() < N and len(cleaned.rows) == 180


def test_an_infinite_number_is_missing_and_counted(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    values = np.array([1.0, np.inf, 3.0, -np.inf] * 10)
    pq.write_table(pa.table({"a": values, "late": values > 2}), tmp_path / "d" / "1.parquet")
    _, prepared = prepared_with(tmp_path, monkeypatch, "{a: number}")
    assert prepared.infinite == {"a": 20} and np.isnan(prepared.number("a")).sum() == 20


def test_moments_merge_to_numpys(monkeypatch):
    values = np.random.default_rng(0).normal(1e6, 1, 10_000).astype(np.float32)
    values[::7] = np.nan
    monkeypatch.setattr("heliostat.data.fit.CHUNK_ROWS", 101)
    moments = moments_of(values)
    assert moments.mean == pytest.approx(np.nanmean(values.astype(float)), rel=1e-12)
    assert moments.deviation == pytest.approx(np.nanstd(values.astype(float)), rel=1e-9)


def test_a_column_without_a_value_in_training_is_named(tmp_path, monkeypatch, source):
    with pytest.raises(DataError, match="data.features.a: holds no value in the training rows"):
        encode(tmp_path, monkeypatch, "{a: number}", np.arange(0, N, 10))


def test_any_world_sees_the_same_global_batches_from_any_cursor(tmp_path, monkeypatch, source):
    plan, prepared = prepared_with(tmp_path, monkeypatch, "{b: number, color: category}")
    encoder = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(N))
    reader, rows = RowReader(prepared, encoder), np.arange(5, N)

    def batches(first: int, rank: int, world: int, count: int):
        source = EpochBatches(reader, rows, 32, seed=9, rank=rank, world_size=world)(first)
        return [next(source) for _ in range(count)]

    alone = batches(0, 0, 1, 15)
    assert [len(b.rows) for b in alone] == ([32] * 6 + [3]) * 2 + [32]
    for world in (2, 3, 5):
        ranks = [batches(4, rank, world, 9) for rank in range(world)]
        for step in range(9):
            whole, parts = alone[step + 4], [rank[step] for rank in ranks]
            assert np.array_equal(np.concatenate([p.rows for p in parts]), whole.rows)
            joined = np.concatenate([p.inputs.numbers for p in parts])
            assert np.array_equal(joined, whole.inputs.numbers)
            assert {p.global_rows for p in parts} == {len(whole.rows)}
