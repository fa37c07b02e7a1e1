"""A model and sources of other types, names and sizes than it learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from heliostat.data.shares import share_warnings, shares_json
from heliostat.errors import DataError
from heliostat.train.evaluate import evaluate
from heliostat.train.outputs import output_names
from heliostat.train.predict import open_prediction, predict
from heliostat.train.scoring_source import model_in, open_scoring
from tests.train.models import model_of

SPLIT_ROWS = 60


def predicted(model: Path, source: object, out: Path) -> pa.Table:
    """What `predict` writes, in this process."""
    scoring, folder = open_prediction(model, str(source), out)
    predict(scoring, folder, 0, lambda done, total: None)
    return pq.read_table(out)


def stores() -> pa.Table:
    """Four stores with a value each, told by a text, a number or whether they are open."""
    number = np.arange(SPLIT_ROWS) % 4 + 1
    return pa.table({
        "store": [f"{n:03}" for n in number], "size": number, "open": number % 2 == 1,
        "y": number * 10.0,
    }).cast(pa.schema({"store": pa.string(), "size": pa.int64(), "open": pa.bool_(), "y": pa.float64()}))  # fmt: skip


@pytest.fixture(scope="module")
def store_model(tmp_path_factory) -> Path:
    features = {"store": "category", "size": "category", "open": "category"}
    data = {"target": "y", "task": "regression", "features": features}
    with pytest.MonkeyPatch.context() as patch:
        return model_of(tmp_path_factory.mktemp("stores"), stores(), data, patch)


def test_a_model_keeps_the_types_it_learned(store_model, tmp_path):
    """Other types with the same values give the same bits; other values are refused."""
    kept = json.loads((store_model / "model.json").read_text())
    assert kept["types"] == {"store": "string", "size": "int64", "open": "bool", "y": "double"}
    rows = stores().slice(0, 4)
    pq.write_table(rows, tmp_path / "as learned.parquet")
    expected = predicted(store_model, tmp_path / "as learned.parquet", tmp_path / "a")["prediction"]
    assert len(expected.unique()) == 4
    others = {
        "store": pa.dictionary(pa.int8(), pa.string()),
        "size": pa.float32(),
        "open": pa.int8(),
    }
    for name, type_ in others.items():
        at = rows.column_names.index(name)
        table = rows.set_column(at, name, rows[name].combine_chunks().cast(type_))
        pq.write_table(table, tmp_path / f"{name}.parquet")
        other = predicted(store_model, tmp_path / f"{name}.parquet", tmp_path / name)
        assert other["prediction"].equals(expected) and other[name].type == table[name].type
    pq.write_table(rows.set_column(0, "store", pa.array([1, 2, 3, 4])), tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"`store` is int64 \(for example `1`\).* as string"):
        open_prediction(store_model, str(tmp_path / "n.parquet"), tmp_path / "n")
    half = rows.set_column(1, "size", pa.array([1.0, 2.0, 3.0, 3.5]))
    pq.write_table(half, tmp_path / "half.parquet")
    for task in ("predict", "evaluate"):
        with pytest.raises(DataError, match=r"half.parquet: .*\(double\) holds `3.5`.* no int64"):
            if task == "predict":
                predicted(store_model, tmp_path / "half.parquet", tmp_path / "half")
            else:
                scoring = open_scoring(store_model, str(tmp_path / "half.parquet"), True)
                evaluate(scoring, 0, lambda done, total: None)
    assert not list(tmp_path.glob(".stage*")) and not (tmp_path / "half").exists()


def test_a_model_of_an_earlier_version_still_predicts(store_model, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for file in store_model.iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    value = json.loads((old / "model.json").read_text())
    for key in ("types", "shares"):
        del value[key]
    (old / "model.json").write_text(json.dumps(value))
    pq.write_table(stores(), tmp_path / "d.parquet")
    found = predicted(old, tmp_path / "d.parquet", tmp_path / "a")
    assert found.equals(predicted(store_model, tmp_path / "d.parquet", tmp_path / "b"))
    assert model_in(str(old)).types == {}


@pytest.mark.parametrize(
    ("kind", "task", "target"),
    [
        ("xgboost", "binary", "late"),
        ("linear", "regression", "amount"),
        ("mlp", "multiclass", "kind"),
    ],
)
def test_no_rows_in_no_rows_out(kind, task, target, table, tmp_path, monkeypatch):
    """With the columns and types that rows would have had, of every kind of model."""
    features = {"x": "number", "z": {"type": "number", "exact": True}, "color": "category",
                "when": "time", "late": "ignore"}  # fmt: skip
    data = {"target": target, "task": task, "features": features}
    model = model_of(tmp_path / "job", table, data, monkeypatch, kind)
    some = pq.read_table(table / "part-00.parquet")
    full = predicted(model, table / "part-00.parquet", tmp_path / "full")
    pq.write_table(some.slice(0, 0), tmp_path / "none.parquet")
    with pq.ParquetWriter(tmp_path / "bare.parquet", some.schema):
        pass  # not even a row group
    for name in ("none", "bare"):
        empty = predicted(model, tmp_path / f"{name}.parquet", tmp_path / name)
        assert empty.num_rows == 0 and empty.schema.equals(full.schema)
        with pytest.raises(DataError, match="holds no row to evaluate on"):
            scoring = open_scoring(model, str(tmp_path / f"{name}.parquet"), True)
            evaluate(scoring, 0, lambda done, total: None)


def test_no_two_columns_have_one_name(store_model, tmp_path):
    table = stores().append_column("prediction", pa.array(["old"] * SPLIT_ROWS))
    pq.write_table(table, tmp_path / "scored.parquet")
    with pytest.raises(DataError, match="has a column `prediction`, .*; rename the column"):
        open_prediction(store_model, str(tmp_path / "scored.parquet"), tmp_path / "out")
    names = output_names(["yes", "Yes", "YES", "yes_2", "ﬁ", "fi"], 6)
    assert names[:3] == ["prediction", "probability_yes", "probability_Yes_2"]
    assert len({name.casefold() for name in names}) == 7


def test_missing_and_new_values_are_counted_and_compared_with_training(tmp_path, monkeypatch):
    n = 400
    rng = np.random.default_rng(0)
    x, word = rng.normal(size=n), rng.choice(["a", "b", "c"], n)
    rare = np.where(np.arange(n) < 4, "rare", "usual")
    table = pa.table({
        "x": pa.array(x, mask=np.arange(n) % 10 == 0), "e": x, "w": word, "h": word, "r": rare,
        "t": np.datetime64("2020-01-01", "us") + np.arange(n) * np.timedelta64(1, "D"),
        "s": word, "v": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(x, 2)), 2), "y": x,
    })  # fmt: skip
    features = {
        "x": "number", "e": {"type": "number", "exact": True}, "w": "category",
        "h": {"type": "category", "buckets": 8}, "r": {"type": "category", "min_count": 5},
        "t": "time", "s": {"type": "text", "buckets": 8}, "v": "vector",
    }  # fmt: skip
    data = {"target": "y", "task": "regression", "features": features}
    model = model_of(tmp_path, table, data, monkeypatch)
    training = model_in(str(model)).shares
    assert {name: share.missing for name, share in training.items()} == (
        dict.fromkeys("ehrstvw", 0.0) | {"x": 0.1}
    )
    unseen = {name: share.unseen for name, share in training.items()}
    assert unseen == dict.fromkeys("ehstvx") | {"w": 0.0, "r": 0.01}

    pq.write_table(table, tmp_path / "same.parquet")
    scoring, out = open_prediction(model, str(tmp_path / "same.parquet"), tmp_path / "same")
    _, found = predict(scoring, out, 0, lambda done, total: None)
    assert found.shares() == training and share_warnings(found, training) == []

    gone = table.slice(0, 10)
    for name in "xehtvs":
        at = gone.column_names.index(name)
        gone = gone.set_column(
            at, name, pa.array([None] * 4 + gone[name].to_pylist()[4:], gone[name].type)
        )
    gone = gone.set_column(gone.column_names.index("w"), "w", pa.array(["A"] * 3 + ["a"] * 7))
    pq.write_table(gone, tmp_path / "gone.parquet")
    scoring, out = open_prediction(model, str(tmp_path / "gone.parquet"), tmp_path / "gone")
    _, found = predict(scoring, out, 0, lambda done, total: None)
    told = shares_json(found, training)
    assert {name: told[name]["missing"] for name in "xehtvs"} == dict.fromkeys("xehtvs", 0.4)
    assert told["w"] == {"missing": 0.0, "unseen": 0.3, "training": {"missing": 0.0, "unseen": 0.0}}
    warned = {line.partition(":")[0] for line in share_warnings(found, training)}
    assert warned == set("xehtvswr")


def test_delimited_text_is_read_as_the_models_own(tmp_path, monkeypatch):
    """Its settings are kept with the model, other formats need none, and codes stay text."""
    rows = [(f"{'00' * (i % 2)}7", f"{i % 4},5", "?" if i % 5 == 0 else "x") for i in range(40)]
    lines = [";".join([*row, f"{10 * (i % 4)},0"]) for i, row in enumerate(rows)]
    (tmp_path / "train.csv").write_bytes("\n".join(["codé;a;w;y", *lines]).encode("latin-1"))
    read = {"delimiter": ";", "decimal": ",", "encoding": "latin-1", "missing": ["?"]}
    features = {"codé": "category", "a": "number", "w": "category"}
    data = {"target": "y", "task": "regression", "features": features, "read": read}
    model = model_of(tmp_path / "job", tmp_path / "train.csv", data, monkeypatch)
    assert json.loads((model / "model.json").read_text())["read"]["decimal"] == ","
    expected = predicted(model, tmp_path / "train.csv", tmp_path / "a")
    assert expected["w"].null_count == 8 and len(expected["prediction"].unique()) > 2
    pq.write_table(expected.drop_columns(["prediction"]), tmp_path / "same.parquet")
    assert predicted(model, tmp_path / "same.parquet", tmp_path / "b").equals(expected)
    few = "\n".join(["codé;a;w;y", *(line for line in lines if line.startswith("7;"))])
    (tmp_path / "few.csv").write_bytes(few.encode("latin-1"))
    found = predicted(model, tmp_path / "few.csv", tmp_path / "c")
    assert found["prediction"].to_pylist() == expected["prediction"].to_pylist()[::2]
    (tmp_path / "plain.csv").write_text("codé,a,w\n7,1.5,x\n", "latin-1")
    with pytest.raises(DataError, match=r"which `,` divides.*; it is read as the model's own data"):
        open_prediction(model, str(tmp_path / "plain.csv"), tmp_path / "d")


def test_a_folder_inside_a_partition_is_what_it_was_in_training(tmp_path, monkeypatch):
    """Keys come from above the source if it names them not, and keep the type they were learned
    in: alone, a code without leading zeros would look like a number.
    """
    codes = {"02134": 0.0, "2134": 50.0, "00501": 100.0}
    for year in (2022, 2023):
        for code, value in codes.items():
            folder = tmp_path / f"d/year={year}/zip={code}"
            folder.mkdir(parents=True)
            y = np.full(20, value + 20.0 * (year % 2))
            pq.write_table(pa.table({"a": y, "y": y}), folder / "p.parquet")
    data = {"target": "y", "task": "regression", "features": {"zip": "category", "year": "number"}}
    model = model_of(tmp_path / "job", tmp_path / "d", data, monkeypatch)
    assert model_in(str(model)).types == {"year": "int64", "y": "double", "zip": "string"}
    whole = predicted(model, tmp_path / "d", tmp_path / "whole")
    assert len(set(whole["prediction"].to_pylist())) == 6
    expected = {
        (year, code): set(whole.filter((pc.field("year") == year) & (pc.field("zip") == code))["prediction"].to_pylist())
        for year in (2022, 2023) for code in codes
    }  # fmt: skip
    for year in (2022, 2023):
        for source in ("", "/zip=2134", "/zip=2134/p.parquet", "/zip=02134/*.parquet"):
            at = f"d/year={year}{source}"
            own = predicted(model, tmp_path / at, tmp_path / f"{year} {source.replace('/', ' ')}")
            assert own.num_rows == (20 if source else 60)
            assert set(own["year"].to_pylist()) == {year}
            for row in own.select(["zip", "prediction"]).to_pylist():
                assert {row["prediction"]} == expected[year, row["zip"]]
    alone = tmp_path / "elsewhere.parquet"
    pq.write_table(pa.table({"a": [0.0]}), alone)
    with pytest.raises(DataError, match="has no column `year`, an input of the model"):
        open_prediction(model, str(alone), tmp_path / "none")


def test_what_was_learned_as_text_is_text_whatever_it_looks_like(tmp_path, monkeypatch):
    looks = {"day": ["2024-01-01", "2024-01-02"], "flag": ["True", "False"], "code": ["1", "2"]}
    n = 40
    table = pa.table({name: values * (n // 2) for name, values in looks.items()})
    table = table.append_column("y", pa.array([0.0, 1.0] * (n // 2)))
    for name in looks:
        data = {"target": "y", "task": "regression", "features": {name: "category"}}
        model = model_of(tmp_path / name, table, data, monkeypatch)
        expected = predicted(model, tmp_path / name / "train.parquet", tmp_path / f"{name} same")
        csv.write_csv(table.select([name]), tmp_path / f"{name}.csv")
        rows = table.select([name]).to_pylist()
        lines = tmp_path / f"{name}.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for suffix in ("csv", "jsonl"):
            out = predicted(model, tmp_path / f"{name}.{suffix}", tmp_path / f"{name} {suffix}")
            assert out["prediction"].equals(expected["prediction"])
            assert out[name].to_pylist() == looks[name] * (n // 2)
