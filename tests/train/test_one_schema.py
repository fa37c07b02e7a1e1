"""A data set is the same data set however its files store it: in training and in `predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.errors import PlanError
from heliostat.train.predict import copy_notes, open_prediction, predict
from tests.train.models import model_of

ROWS = 90
DATA = {
    "target": "y",
    "task": "regression",
    "features": {"k": "category", "a": "number", "c": "category", "t": "time"},
}


def whole() -> pa.Table:
    rng = np.random.default_rng(0)
    k = rng.integers(1, 4, ROWS)
    days = pa.array(np.arange(ROWS) * 86_400_000_000, pa.timestamp("us"))
    return pa.table({
        "k": k, "a": rng.integers(-8, 8, ROWS) / 4, "t": days, "y": k * 10.0,
        "c": pa.array(np.array(["x", "y", "z"])[k - 1], mask=rng.random(ROWS) < 0.1),
    })  # fmt: skip


PARTS = (
    {"k": pa.int32(), "a": pa.float32(), "c": pa.dictionary(pa.int8(), pa.string()),
     "t": pa.timestamp("ms"), "y": pa.int16()},
    {"k": pa.float64(), "a": pa.decimal128(6, 2), "c": pa.large_string(),
     "t": pa.timestamp("ns"), "y": pa.float32()},
    {"y": pa.float64(), "t": pa.date32(), "c": pa.string_view(), "a": pa.float64(), "k": pa.uint8()},
)  # fmt: skip


def in_parts(folder: Path, order: tuple[int, ...]) -> Path:
    """The table in three files, each in other types and with other columns first."""
    folder.mkdir(parents=True)
    for i, part in enumerate(order):
        rows = whole().slice(30 * i, 30)
        columns = {name: rows[name].combine_chunks().cast(t) for name, t in PARTS[part].items()}
        pq.write_table(pa.table(columns), folder / f"{i}.parquet")
    (folder / "3.csv").write_text("k,a,c,t,y\n")
    return folder


def predicted(model: Path, source: Path, out: Path) -> pa.Table:
    scoring, folder = open_prediction(model, str(source), out)
    predict(scoring, folder, 0, lambda done, total: None)
    parts = [pq.read_table(path) for path in sorted(out.iterdir())]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_training_and_predict_read_any_files_as_one(tmp_path, monkeypatch, order):
    parts = in_parts(tmp_path / "parts", order)
    model = model_of(tmp_path / "one", whole(), DATA, monkeypatch)
    other = model_of(tmp_path / "many", parts, DATA, monkeypatch)
    assert (
        json.loads((model / "model.json").read_text())["transforms"]
        == (json.loads((other / "model.json").read_text())["transforms"])
    )
    expected = predicted(model, tmp_path / "one" / "train.parquet", tmp_path / "a")
    for i, one in enumerate((model, other)):
        found = predicted(one, parts, tmp_path / f"b{i}")
        assert found["prediction"].equals(expected["prediction"])
        assert found["y"].cast(pa.float64()).equals(whole()["y"])


def odd(i: int) -> dict[str, pa.Array]:
    """Columns that are in no order."""
    n = 30
    nested = pa.array([{"p": 1}] * n) if i else pa.array([[1.5]] * n)
    interval = pa.array([(1, 2, 3)] * n, pa.month_day_nano_interval())
    return {
        "mixed": pa.array(["x"] * n if i else [7] * n), "nested": nested,
        "large": pa.array([2**60 + 1] * n if i else [0.5] * n), f"only {i}": pa.array([i] * n),
        "zone": pa.array([10**17] * n, pa.timestamp("us", "UTC" if i else None)),
        "interval": interval, "null": pa.nulls(n, pa.int8()) if i else pa.nulls(n),
    }  # fmt: skip


def write_odd(folder: Path) -> Path:
    folder.mkdir()
    for i in range(3):
        rows = whole().slice(30 * i, 30)
        table = pa.table(odd(i) | dict(zip(rows.column_names, rows.columns, strict=True)))
        with pa.ipc.new_file(folder / f"{i}.arrow", table.schema) as file:
            file.write_table(table)
    return folder


def test_a_column_that_nobody_uses_is_no_obstacle(tmp_path, monkeypatch):
    source = write_odd(tmp_path / "odd")
    features = DATA["features"] | {"mixed": "ignore", "nes*": "ignore"}
    model = model_of(tmp_path / "m", source, DATA | {"features": features}, monkeypatch)
    found = predicted(model, source, tmp_path / "out")
    assert found.num_rows == ROWS and found["y"].to_pylist() == whole()["y"].to_pylist()
    assert found["mixed"].unique().to_pylist() == ["7", "x"]
    assert found["only 1"].null_count == 60 and found["null"].type == pa.int8()
    assert found["large"].unique().to_pylist() == ["0.5", str(2**60 + 1)]
    scoring, _ = open_prediction(model, str(source), tmp_path / "again")
    notes = "\n".join(copy_notes(scoring.catalog))
    for name, what in {"mixed": "written as text", "nested": "left out", "interval": "left out"}.items():  # fmt: skip
        assert any(f"`{name}`" in note and what in note for note in notes.splitlines())
    with pytest.raises(PlanError) as caught:
        model_of(tmp_path / "n", source, DATA | {"features": None}, monkeypatch)
    for name in ("mixed", "nested", "large", "only 0", "zone", "interval"):
        assert f"`{name}`" in str(caught.value) and f"`{name}: ignore`" in str(caught.value)


@pytest.mark.parametrize(
    "used",
    [{"features": {"mixed": "category"}}, {"target": "mixed", "task": "multiclass"},
     {"weight": "large"}, {"filter": "mixed == 7"}, {"split": {"method": "group", "column": "mixed"}},
     {"split": {"method": "time", "column": "zone"}}],
)  # fmt: skip
def test_who_uses_a_column_is_told_the_file_and_the_column(tmp_path, monkeypatch, used):
    source = write_odd(tmp_path / "odd")
    with pytest.raises(PlanError, match=r"1\.arrow: column `(mixed|large|zone)` is .* in 0\.arrow"):
        model_of(tmp_path / "m", source, DATA | used, monkeypatch)


def test_two_columns_of_one_name_are_refused(tmp_path, monkeypatch):
    table = pa.Table.from_arrays([pa.array([1.0])] * 4, ["a", "a", "b", "y"])
    data = {"target": "y", "task": "regression"}
    pq.write_table(table, tmp_path / "d.parquet")
    for features in ({"a": "number"}, None, {"*": "auto"}):
        with pytest.raises(PlanError, match=r"d.parquet: two columns are called `a`"):
            model_of(
                tmp_path / "m", tmp_path / "d.parquet", data | {"features": features}, monkeypatch
            )


def test_keys_of_folders_keep_their_zeros(tmp_path, monkeypatch):
    values = {"02134": 0.0, "2134": 50.0, "00501": 100.0}
    for value, y in values.items():
        (tmp_path / "d" / f"zip={value}").mkdir(parents=True)
        pq.write_table(pa.table({"y": [y] * 20}), tmp_path / "d" / f"zip={value}" / "a.parquet")
    data = {"target": "y", "task": "regression", "features": {"zip": "category"}}
    model = model_of(tmp_path / "m", tmp_path / "d", data, monkeypatch)
    transforms = json.loads((model / "model.json").read_text())["transforms"]
    assert transforms["categories"][0]["values"] == sorted(values)
    found = predicted(model, tmp_path / "d", tmp_path / "all")
    rows = dict(zip(found["zip"].to_pylist(), found["prediction"].to_pylist(), strict=True))
    assert len(set(rows.values())) == 3
    # A key that alone looks like a number is what the model learned.
    (tmp_path / "one" / "zip=2134").mkdir(parents=True)
    pq.write_table(pa.table({"y": [0.0]}), tmp_path / "one" / "zip=2134" / "a.parquet")
    one = predicted(model, tmp_path / "one", tmp_path / "out")
    assert one["prediction"].to_pylist() == [rows["2134"]] and one["zip"].to_pylist() == ["2134"]
    as_number = data | {"features": {"zip": "number"}}
    model_of(tmp_path / "n", tmp_path / "d", as_number, monkeypatch)
