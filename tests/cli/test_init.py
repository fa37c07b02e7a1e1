"""`init`: what it writes passes `plan`, whatever names, paths and values it met."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.catalog.detect import detect_catalog
from heliostat.catalog.draft import Draft, draft_job
from heliostat.data.fit import class_text
from heliostat.errors import DataError
from heliostat.plan.plan import Plan, plan_job
from heliostat.spec.load import load_job
from heliostat.spec.yaml import parse_text, quoted

ROWS = 120
HOSTILE = [
    "temp[C]", "[abc]", "a*", "*", "?", "**", "x.y", ".", "..", "'", '"', '"a"', "é", "日本", "🙂",
    unicodedata.normalize("NFD", "é"), " ", " lead", "trail ", "a b", "a\nb", "a\tb", "\t", "#", "a #b",
    "a: b", ": ", "- ", "-", "null", "~", "yes", "no", "on", "true", "False", "1e3", "0x1F", "1_000",
    "007", "12", "{", "}", "[", "]", "{a: b}", "&a", "*a", "!tag", "|", ">", "%", "@", "`", "", "\\",
    "\\n", "x" * 1200, "é" * 600, "\u2028", "\x85", "\ufeff", "\x7f", "a,b", "a;b", "<<", "=", "?a",
    "type", "auto", "ignore", "target", "prediction", "__index_level_0__", "Unnamed: 0", "\U0001f1e6",
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
names = st.sampled_from(HOSTILE) | texts
label = st.sampled_from(HOSTILE) | texts | st.booleans() | st.integers(-9, 9)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(source: str, target: str | None = None) -> tuple[Draft, Plan]:
    """What `init` writes of a source in this folder, and the plan of it."""
    draft = draft_job(detect_catalog(source), target)
    Path("job.yaml").write_text(draft.text, encoding="utf-8")
    return draft, plan_job(load_job("job.yaml"))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    st.lists(names, min_size=2, max_size=6, unique=True),
    st.tuples(label, label).filter(lambda pair: type(pair[0]) is type(pair[1]) and pair[0] != pair[1]),
    names,
)  # fmt: skip
def test_what_init_writes_passes_plan(folder, columns, labels, place):
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.normal(size=ROWS) for name in columns[:-1]})
    values = [labels[i % 2] for i in rng.permutation(ROWS)]
    table = table.append_column(columns[-1], pa.array(values))
    place = os.fsencode(place.replace("/", "").replace("\0", ""))[:80].decode(errors="ignore")
    source = f"./{place}/{place}.parquet"
    (folder / place).mkdir(exist_ok=True)
    pq.write_table(table, source)
    _, plan = planned(source, columns[-1])
    assert plan.columns.target.name == columns[-1]
    inputs = {column.name for column in plan.columns.inputs}
    usual = set(columns[:-1]) - {"__index_level_0__", "Unnamed: 0"}
    assert inputs == usual or (not usual and len(inputs) == 1)
    assert class_text(plan.job.spec.data.positive) in {class_text(name) for name in labels}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    st.lists(names, min_size=2, max_size=5, unique_by=lambda name: name.strip(" \t")),
    st.lists(st.sampled_from(["1", "2.5", "1,5", "1,234", "?", "x", "007", "", " y ", "é", "a\nb"]),
             min_size=6, max_size=30),
    st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)  # fmt: skip
def test_what_init_writes_of_delimited_text_passes_plan(
    folder, columns, cells, delimiter, encoding
):
    with open("a.csv", "w", newline="", encoding=encoding, errors="replace") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        for i in range(len(cells)):
            writer.writerow([cells[(i * (j + 1)) % len(cells)] for j in range(len(columns))])
    try:
        catalog = detect_catalog("a.csv")
        draft = draft_job(catalog, None)
    except DataError:
        return  # said; there is no file
    Path("job.yaml").write_text(draft.text, encoding="utf-8")
    assert plan_job(load_job("job.yaml")).catalog.digest == catalog.digest


@given(texts | st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_is_that_text(text):
    line = f"? {quoted(text)}\n: [{quoted(text)}, {{a: {quoted(text)}}}]    # x\n"
    value = parse_text(line, "f", Path()).value
    assert value == {text: [text, {"a": text}]} and quoted(text).isprintable()


def test_kinds_of_columns_are_told_apart(folder):
    """And what should not be learned from is left out, or pointed out."""
    rng = np.random.default_rng(0)
    y, word = rng.integers(0, 2, ROWS), rng.choice(["a", "b"], ROWS)
    table = {
        "row": np.arange(ROWS), "shuffled": rng.permutation(ROWS), "leak": y * 3.0 + 1,
        "leaks": np.where(y, "late", "soon"), "x": rng.normal(size=ROWS), "word": word,
        "name": [f"n{i}" for i in rng.permutation(ROWS)], "one": np.ones(ROWS),
        "none": pa.nulls(ROWS, pa.float64()), "list": [[1, 2]] * ROWS, "nothing": pa.nulls(ROWS),
        "odd\ntype": pa.StructArray.from_arrays([pa.array(y)], ["a\nb: #"]),
        "when": np.datetime64("2024-01-01", "s") + np.arange(ROWS) * np.timedelta64(60, "s"),
        "y": y,
    }  # fmt: skip
    pq.write_table(pa.table(table), "d.parquet")
    draft, plan = planned("d.parquet")
    assert plan.columns.target.name == "y" and plan.job.spec.data.task == "binary"
    inputs = {column.name: column.kind for column in plan.columns.inputs}
    assert inputs == {
        "leak": "number", "leaks": "category", "x": "number", "word": "category", "when": "time",
    }  # fmt: skip
    told = [warning.partition("`: ") for warning in draft.warnings]
    assert {name.strip("`"): what[:5] for name, _, what in told} == {
        "row": "count", "shuffled": "count", "leak": "nearl", "leaks": "nearl",
    }  # fmt: skip
    pq.write_table(
        pa.table({"a": -2.5 * table["x"], "b": table["x"], "y": table["x"]}), "d.parquet"
    )
    draft, plan = planned("d.parquet")
    assert plan.job.spec.data.task == "regression" and len(draft.warnings) == 2


def test_init_reads_text_as_it_is_written_and_says_so(folder):
    lines = [
        "prénom;loyer;zone;y",
        *(f"n{i % 7};{i % 9},5;{'?' if i % 4 else 'ab'[i % 8 // 4]};{i % 2}" for i in range(60)),
    ]
    Path("a.csv").write_bytes("\n".join(lines).encode("latin-1"))
    draft, plan = planned("a.csv")
    read = (
        '  read: {delimiter: ";", decimal: ",", thousands: ".", encoding: latin-1, missing: ["?"]}'
    )
    assert read in draft.text.replace("thousands: .,", 'thousands: ".",')
    assert {c.name: c.kind for c in plan.columns.inputs} == {
        "prénom": "category", "loyer": "number", "zone": "category",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "target", "sentence"),
    [
        ({"a": [1, 2]}, None, "has no column to learn `a` from"),
        ({"a": [[1], [2]], "b": [1, 1]}, None, "has no column to learn: of numbers"),
        ({"a": [[1], [2]], "b": [1, 2]}, "a", "`a` is list<element: int64>: neither numbers nor"),
        ({"a": [1, 2], "b": [1, 1]}, "b", "`b` has fewer than two values"),
        ({"ab": [1, 2], "b": [1, 2]}, "abc", "did you mean `ab`?"),
        ({"a": pa.array([], pa.int64())}, None, "holds no row"),
    ],
)
def test_where_there_is_nothing_to_learn_init_says_so(folder, table, target, sentence):
    pq.write_table(pa.table(table), "d.parquet")
    with pytest.raises(DataError) as caught:
        planned("d.parquet", target)
    assert sentence in str(caught.value)


def test_columns_that_cannot_be_read_are_left_out_and_named(folder):
    (folder / "d").mkdir()
    table = pa.table([range(4), ["x", "y"] * 2, range(4), [0, 1] * 2], ["a", "b", "b", "y"])
    for i, values in enumerate(([1, 2, 3, 4], [[1], [2], [3], [4]])):
        pq.write_table(table.append_column("z", pa.array(values)), f"d/{i}.parquet")
    draft, plan = planned("d")
    assert [column.name for column in plan.columns.inputs] == ["a"]
    assert [w.partition("`: ")[0] for w in draft.warnings] == ["`b", "`z"]
    with pytest.raises(DataError, match="`z`"):
        planned("d", "z")


def test_of_very_many_columns_only_exceptions_are_listed(folder):
    columns = {f"x{i}": [0.5, i, 2.0, 3.0] for i in range(1500)}
    pq.write_table(
        pa.table(columns | {"*": [1, 2, 3, 4], "l": [[1]] * 4, "y": [0, 1] * 2}), "d.parquet"
    )
    draft, plan = planned("d.parquet")
    assert len(plan.columns.inputs) == 1501 and len(draft.text) < 1500
    assert '"**": auto' in draft.text and "    l: ignore" in draft.text


@pytest.mark.parametrize("rows", [2, 3, 4, 7])
def test_few_rows_are_split_all_the_same(folder, rows):
    pq.write_table(
        pa.table({"a": np.arange(rows) % 2 * 1.5, "y": np.arange(rows) % 2}), "d.parquet"
    )
    counts = planned("d.parquet")[1].counts
    assert counts is not None and min(counts.train, counts.validation) > 0
