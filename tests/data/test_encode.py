"""Cleaning and transforms: fitted on training rows, the same in training and in predict."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.data.clean import clean_rows
from heliostat.data.duplicates import content_hashes
from heliostat.data.encode import FIRST_VALUE, MISSING, UNKNOWN, Encoder
from heliostat.data.fit import fit_encoder
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
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, train)
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
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(0, N, 2))
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
    assert not cleaned.keep[N:].any() and cleaned.keep.sum() == 180
    for index, shard in enumerate(prepared.shards):  # hashed where they were packed
        np.testing.assert_array_equal(prepared.contents[index], content_hashes(shard))


def test_an_infinite_number_is_missing_and_counted(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    values = np.array([1.0, np.inf, 3.0, -np.inf] * 10)
    pq.write_table(pa.table({"a": values, "late": values > 2}), tmp_path / "d" / "1.parquet")
    _, prepared = prepared_with(tmp_path, monkeypatch, "{a: number}")
    assert prepared.infinite == {"a": 20} and np.isnan(prepared.number("a")).sum() == 20


def test_a_column_without_a_value_in_training_is_named(tmp_path, monkeypatch, source):
    with pytest.raises(DataError, match="data.features.a: holds no value in the training rows"):
        encode(tmp_path, monkeypatch, "{a: number}", np.arange(0, N, 10))


def test_any_world_sees_the_same_global_batches_from_any_cursor(tmp_path, monkeypatch, source):
    plan, prepared = prepared_with(tmp_path, monkeypatch, "{b: number, color: category}")
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(N))
    reader, rows = RowReader(prepared, encoder), np.arange(5, N)

    def batches(first: int, rank: int, world: int, count: int):
        source = EpochBatches(reader, rows, 32, seed=9, rank=rank, world_size=world)(first)
        return [next(source) for _ in range(count)]

    alone = batches(0, 0, 1, 15)
    assert [len(b.own.rows) for b in alone] == ([32] * 6 + [3]) * 2 + [32]
    for world in (2, 3, 5):
        ranks = [batches(4, rank, world, 9) for rank in range(world)]
        for step in range(9):
            whole, parts = alone[step + 4], [rank[step] for rank in ranks]
            assert np.array_equal(np.concatenate([p.own.rows for p in parts]), whole.own.rows)
            joined = np.concatenate([p.own.inputs.numbers for p in parts])
            assert np.array_equal(joined, whole.own.inputs.numbers)
            assert {p.global_rows for p in parts} == {len(whole.own.rows)}


def test_outliers_are_clipped_to_quantiles_and_missing_values_marked(source, tmp_path, monkeypatch):
    features = (
        "{a: {type: number, missing: mean, scale: none, indicator: true, "
        "clip: {low: 0.1, high: 0.9}}, b: number}"
    )
    plan, prepared = prepared_with(tmp_path, monkeypatch, features)
    train = np.arange(0, N, 2)
    encoder, touched = fit_encoder(prepared, plan.columns, plan.job.spec, train)
    numbers = RowReader(prepared, encoder).inputs(np.arange(N)).numbers
    a = source["a"].to_numpy().astype(np.float32)
    present = a[train][~np.isnan(a[train])]
    low, high = np.quantile(present, [0.1, 0.9]).astype(np.float32)
    expected = np.clip(a, low, high)
    expected[np.isnan(a)] = np.clip(present, low, high).mean(dtype=np.float64)
    assert np.allclose(numbers[:, 0], expected, rtol=1e-6)
    assert np.array_equal(numbers[:, 2], np.isnan(a))
    counts = sorted(count for what, count in touched.items() if what.startswith("a:"))
    assert counts == sorted([int(np.isnan(a[train]).sum()), int((present < low).sum() * 2)])


def test_rare_values_are_unknown(source, tmp_path, monkeypatch):
    features = "{color: {type: category, min_count: 90}, b: number}"
    plan, prepared = prepared_with(tmp_path, monkeypatch, features)
    encoder, touched = fit_encoder(prepared, plan.columns, plan.job.spec, np.arange(N))
    colors = np.array(source["color"].to_pylist(), object)
    assert encoder.categories[0].values == ("green",)
    codes = RowReader(prepared, encoder).inputs(np.arange(N)).categories[:, 0]
    expected = np.select([colors == "green", colors == "red"], [FIRST_VALUE, UNKNOWN], MISSING)
    assert np.array_equal(codes, expected)
    (count,) = [count for what, count in touched.items() if "fewer than 90 rows" in what]
    assert count == (colors == "red").sum()


def test_constant_columns_are_left_out_on_request(source, tmp_path, monkeypatch):
    train = np.flatnonzero(np.array(source["b"]) == 4)
    features = "{a: number, b: number, color: category}"
    plan, prepared = prepared_with(
        tmp_path, monkeypatch, features, "data.clean.constant_columns=drop"
    )
    encoder, touched = fit_encoder(prepared, plan.columns, plan.job.spec, train)
    assert [number.name for number in encoder.numbers] == ["a"]
    assert touched["columns with one value in the training rows: left out"] == 1


@pytest.mark.parametrize(
    ("wanted", "expected"), [("balanced", None), ("{true: 3, false: 0.5}", (0.5, 3.0))]
)
def test_a_row_weighs_its_column_times_its_class(source, tmp_path, monkeypatch, wanted, expected):
    settings = (f"data.class_weights={wanted}", "data.weight=b")
    plan, prepared = prepared_with(tmp_path, monkeypatch, "{a: number}", *settings)
    train = np.arange(0, N, 3)
    encoder, _ = fit_encoder(prepared, plan.columns, plan.job.spec, train)
    reader = RowReader(prepared, encoder)
    late = np.array(source["late"])
    if expected is None:
        in_train = late[train]
        expected = tuple(len(train) / (2 * (in_train == c).sum()) for c in (False, True))
    weights = np.array(source["b"]) * np.array(expected)[late.astype(int)]
    assert np.allclose(reader.weights(np.arange(N)), weights)
    again = RowReader(prepared, Encoder.from_json(json.loads(json.dumps(encoder.to_json()))))
    assert np.allclose(again.weights(np.arange(N)), weights)
    for size in (1, 2, 3):
        ranks = [EpochBatches(reader, np.arange(N), 64, 5, r, size) for r in range(size)]
        for batches in zip(*(islice(rank(0), 4) for rank in ranks), strict=True):
            total = sum(batch.own.weights.sum(dtype=float) for batch in batches)
            assert all(b.global_weight == pytest.approx(total, rel=1e-6) for b in batches)
