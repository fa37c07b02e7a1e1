"""Every format and layout gives the same rows; filters read no more than they must."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather

from heliostat.catalog.catalog import read_catalog
from heliostat.catalog.filter import filter_expression
from heliostat.catalog.read import read_groups
from heliostat.errors import DataError

TABLE = pa.table(
    {
        "x": pa.array([0.5, None, 2.25, -1.0, 8.0] * 20),
        "month": pa.array(np.arange(100) // 10),
        "carrier": pa.array(["UA", "AA", None, "B6", 'say "hi", twice'] * 20),
        "day": pa.array([datetime.date(2013, 1, 1 + i % 28) for i in range(100)]),
        "late": pa.array([True, False] * 50),
    }
)


def rows_of(source, names=None, text=None) -> pa.Table:
    catalog = read_catalog(str(source))
    pieces = list(read_groups(catalog.row_groups, catalog.schema, names, text))
    assert sum(piece.num_read for piece in pieces) == catalog.num_rows
    return pa.concat_tables([piece.table for piece in pieces if len(piece.rows)])


def write(kind: str, folder) -> None:
    for i in range(2):
        part = TABLE.slice(50 * i, 50)
        if kind == "parquet":
            pq.write_table(part, folder / f"{i}.parquet", row_group_size=7)
        elif kind in ("csv", "tsv"):
            options = csv.WriteOptions(delimiter="," if kind == "csv" else "\t")
            csv.write_csv(part, folder / f"{i}.{kind}", options)
        elif kind == "jsonl":
            lines = [json.dumps(row, default=str) for row in part.to_pylist()]
            (folder / f"{i}.jsonl").write_text("\n".join(lines))
        elif kind == "arrow":
            with pa.ipc.new_file(folder / f"{i}.arrow", part.schema) as file:
                file.write_table(part, max_chunksize=11)
        else:
            feather.write_feather(part, folder / f"{i}.feather")


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "arrow", "feather"])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    write(kind, tmp_path)
    catalog = read_catalog(str(tmp_path))
    assert catalog.num_rows == 100
    kinds = [column.kind for column in catalog.columns.values()]
    assert kinds == ["number", "number", "category", "time", "boolean"]
    found = rows_of(tmp_path, ["carrier", "x", "month", "late"])
    assert found.to_pylist() == TABLE.select(["carrier", "x", "month", "late"]).to_pylist()


def test_folders_name_columns(tmp_path):
    pq.write_to_dataset(TABLE, tmp_path, partition_cols=["month", "carrier"])
    catalog = read_catalog(str(tmp_path))
    assert {name: c.kind for name, c in catalog.columns.items()} == {
        "x": "number", "day": "time", "late": "boolean", "month": "number", "carrier": "category",
    }  # fmt: skip
    key = [("day", "ascending"), ("month", "ascending"), ("x", "ascending")]
    names = ["day", "month", "x", "carrier"]
    found = rows_of(tmp_path, names).combine_chunks().sort_by(key)
    assert found.to_pylist() == TABLE.select(names).sort_by(key).to_pylist()
    first = rows_of(tmp_path, ["x"], "month == 3 and carrier is null")
    assert first.num_rows == 2
    (tmp_path / "other=1").mkdir()
    pq.write_table(TABLE, tmp_path / "other=1" / "a.parquet")
    problems = read_catalog(str(tmp_path)).problems_of(["other", "x"])
    assert len(problems) == 1 and "lacks column `other`, which other files" in str(problems[0])


CONDITIONS = {
    "month <= 6": lambda r: r["month"] <= 6,
    "2 < month <= 6 or x > 1": lambda r: 2 < r["month"] <= 6 or (r["x"] or 0) > 1,
    'carrier in ["UA", "B6"] and not late': lambda r: r["carrier"] in ("UA", "B6")
    and not r["late"],
    "x is null": lambda r: r["x"] is None,
    "carrier is not null and x * 2 + 1 >= -x": lambda r: r["carrier"] is not None
    and r["x"] is not None and r["x"] * 2 + 1 >= -r["x"],
    'day >= "2013-01-10"': lambda r: r["day"] >= datetime.date(2013, 1, 10),
    "late == true": lambda r: r["late"],
    "late": lambda r: r["late"],
}  # fmt: skip


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_filter_means_what_it_says(tmp_path, text):
    write("parquet", tmp_path)
    expected = [row for row in TABLE.to_pylist() if CONDITIONS[text](row)]
    assert rows_of(tmp_path, TABLE.column_names, text).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mnth < 3", "no column `mnth`"), ("month <", "is no condition"),
        ('month < "x"', "no kernel"), ("__import__(\"os\")", "not part of the language"),
        ("month", "filter expression must"), ("day > \"soon\"", "is no date"),
        ("carrier == 3", "compares text with the number 3"), ("day == 3", "`3` is no date"),
        ('day > "2013-01-01T00:00Z"', "has a time zone, the column has none"),
        ("x.real > 1", "not part of the language"), ("[x for x in month]", "not part"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(text, sentence):
    with pytest.raises(DataError) as caught:
        filter_expression(text, TABLE.schema)
    assert sentence.lower() in str(caught.value).lower()


def test_a_filter_s_time_is_in_utc_where_the_column_has_a_zone(tmp_path):
    times = [datetime.datetime(2020, 1, day, tzinfo=datetime.UTC) for day in (1, 2, 3)]
    column = pa.array(times, pa.timestamp("ms", "Asia/Tokyo"))
    pq.write_table(pa.table({"t": column}), tmp_path / "a.parquet")
    for text in ('t >= "2020-01-02"', 't >= "2020-01-02T09:00+09:00"', 't in ["2020-01-02"]'):
        found = rows_of(tmp_path, ["t"], text)["t"].to_pylist()
        assert found == (times[1:2] if " in " in text else times[1:])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 60), st.integers(-3, 12), st.integers(0, 60))
def test_a_filter_keeps_row_numbers(tmp_path, group_rows, month, cut):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=group_rows)
    text = f"month >= {month} and month * 10 > {cut}"
    catalog = read_catalog(str(tmp_path))
    pieces = list(read_groups(catalog.row_groups, catalog.schema, ["month"], text))
    rows = np.concatenate([piece.rows for piece in pieces])
    months = np.array(TABLE["month"])
    assert np.array_equal(rows, np.flatnonzero((months >= month) & (months * 10 > cut)))


def test_pages_that_nobody_asks_for_are_not_read(tmp_path):
    """Damage in a pruned column or a ruled-out row group goes unnoticed; elsewhere it is named."""
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=50, compression="none", use_dictionary=False)
    metadata = pq.read_metadata(path)
    column = metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start, size = column.data_page_offset, column.total_compressed_size
    raw[start : start + size] = b"\xff" * size
    path.write_bytes(raw)
    assert rows_of(tmp_path, ["month"]).num_rows == 100
    assert rows_of(tmp_path, ["x", "month"], "month < 5")["x"].null_count == 10
    with pytest.raises(DataError, match="row group 1: is damaged"):
        rows_of(tmp_path, ["x"])


def test_a_word_far_down_a_column_of_numbers_is_noticed(tmp_path):
    lines = ["a,b"] + [f"{i},1" for i in range(700_000)] + ["oops,1"]
    (tmp_path / "big.csv").write_text("\n".join(lines))
    doubt = read_catalog(str(tmp_path)).doubts["a"]
    assert doubt.is_number and doubt.what == "its values are numbers, except for `oops`"


def test_all_of_a_file_of_json_lines_decides_its_types(tmp_path, monkeypatch):
    texts = ['{"a": null, "b": 1, "c": "2020-01-01"}', '{"a": 1, "b": 0.5, "c": "x", "d": [1]}']
    for block_bytes in (1 << 22, 30):
        monkeypatch.setattr("heliostat.catalog.json_lines.BLOCK_BYTES", block_bytes)
        (tmp_path / "a.jsonl").write_text("\n".join([texts[0]] * 9 + [texts[1]] * 2))
        found = rows_of(tmp_path / "a.jsonl")
        assert found["a"].to_pylist() == [None] * 9 + [1] * 2
        assert found["b"].to_pylist() == [1.0] * 9 + [0.5] * 2
        assert found["c"].to_pylist() == ["2020-01-01"] * 9 + ["x"] * 2
        assert found["d"].to_pylist() == [None] * 9 + [[1]] * 2


def test_what_is_not_read_says_what_is(tmp_path):
    (tmp_path / "big.xlsx").write_text("a,b")
    with pytest.raises(DataError, match="convert it to Parquet"):
        read_catalog(str(tmp_path))


def test_an_object_store_is_a_source_like_a_folder(s3_store, tmp_path, monkeypatch):
    for key, value in s3_store.environment.items():
        monkeypatch.setenv(key, value)
    write("parquet", tmp_path)
    for path in tmp_path.iterdir():
        s3_store.filesystem.create_dir("bucket/flights/year=2013")
        with s3_store.filesystem.open_output_stream(f"bucket/flights/year=2013/{path.name}") as out:
            out.write(path.read_bytes())
    for source in ("s3://bucket/flights", "s3://bucket/flights/*/*.parquet"):
        found = rows_of(source, ["x", "year"], "month < 9")
        assert found["x"].to_pylist() == TABLE.filter(pc.field("month") < 9)["x"].to_pylist()
        assert set(found["year"].to_pylist()) == {2013}
    for source, sentence in (
        ("s3://bucket/nowhere", "no such file"),
        ("s3://key:secret@bucket/x", "credentials do not belong in a job file"),
        ("gopher://bucket/x", "cannot be reached"),
    ):
        with pytest.raises(DataError, match=sentence) as caught:
            read_catalog(source)
        assert "secret@" not in str(caught.value)
