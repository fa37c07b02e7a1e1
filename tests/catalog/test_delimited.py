"""Delimited text: the settings of `data.read` mean what they say, and a wrong one is named."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.catalog.catalog import read_catalog
from heliostat.catalog.read import read_groups
from heliostat.errors import DataError, SettingError
from heliostat.spec.read import ReadSpec

ROWS = [
    {"town": "Orléans", "rent": 1234.5, "rooms": 2, "day": "2024-01-01"},
    {"town": "Besançon", "rent": -12345678.25, "rooms": None, "day": "2024-01-02"},
    {"town": None, "rent": 0.125, "rooms": -3, "day": "2024-02-29"},
    {"town": 'a "quoted" name', "rent": None, "rooms": 1500, "day": None},
]


def number(value, decimal: str, thousands: str, missing: str) -> str:
    if value is None:
        return missing
    whole, _, rest = str(abs(value)).partition(".")
    grouped = f"{int(whole):,}".replace(",", thousands)
    return "-" * (value < 0) + grouped + (decimal + rest if rest else "")


def written(delimiter=",", decimal=".", thousands="", missing="", encoding="utf-8", header=True):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    if header:
        writer.writerow(ROWS[0])
    for row in ROWS * 20:
        town, day = (missing if row[key] is None else row[key] for key in ("town", "day"))
        rent, rooms = (number(row[key], decimal, thousands, missing) for key in ("rent", "rooms"))
        writer.writerow([town, rent, rooms, day])
    return text.getvalue().encode(encoding)


def rows_of(source, read: ReadSpec | None = None) -> pa.Table:
    catalog = read_catalog(str(source), read)
    table = pa.concat_tables(
        piece.table for piece in read_groups(catalog.row_groups, catalog.schema, None)
    )
    assert table.num_rows == catalog.num_rows and table.schema == catalog.schema
    return table


DIALECTS = [
    {},
    {"delimiter": ";", "decimal": ",", "encoding": "latin-1"},
    {"delimiter": ";", "decimal": ",", "thousands": "."},
    {"delimiter": "|", "thousands": ",", "encoding": "utf-16"},
    {"delimiter": "\t", "thousands": "'", "missing": "?", "encoding": "cp1252"},
    {"decimal": ",", "thousands": "\u202f", "missing": "-999"},
    {"header": list(ROWS[0]), "missing": "NA", "encoding": "utf-8-sig"},
    {"delimiter": ":", "header": list(ROWS[0]), "decimal": ","},
]


@pytest.mark.parametrize("how", DIALECTS, ids=str)
def test_a_table_is_the_same_however_it_is_written(tmp_path, how):
    (tmp_path / "plain.csv").write_bytes(written())
    content = {**how, "header": "header" not in how}
    (tmp_path / "a.csv").write_bytes(written(**content))
    missing = {"missing": [how["missing"]]} if "missing" in how else {}
    read = ReadSpec.model_validate({**how, **missing})
    plain, other = rows_of(tmp_path / "plain.csv"), rows_of(tmp_path / "a.csv", read)
    assert [str(field.type) for field in plain.schema] == [
        "string",
        "double",
        "int64",
        "date32[day]",
    ]
    assert other.equals(plain) and plain.slice(0, 4).to_pylist()[1]["rent"] == -12345678.25


def test_other_settings_are_another_digest(tmp_path):
    (tmp_path / "a.csv").write_text("a;b\n1,5;NA\n2,5;x\n")
    reads = [
        ReadSpec(delimiter=";"), ReadSpec(delimiter=";", decimal=","),
        ReadSpec(delimiter=";", missing=("x",)), ReadSpec(delimiter=";", encoding="latin-1"),
    ]  # fmt: skip
    catalogs = [read_catalog(str(tmp_path), read) for read in reads]
    assert len({catalog.digest for catalog in catalogs}) == 4
    assert read_catalog(str(tmp_path), reads[0]).digest == catalogs[0].digest


WRONG = [
    (b'"fixed acidity";"quality"\n7,4;5\n7,8;6\n', "which `;` divides", {"delimiter": ";"}),
    (b"price (EUR,net);qty\n1,5;2\n2,5;3\n", "which `;` divides", {"delimiter": ";"}),
    (b"a\tb\n1\t2\n", "which `\\t` divides", {"delimiter": "\t"}),
    (b"a|b\n1|2\n", "which `|` divides", {"delimiter": "|"}),
    ("a,b\n1,é\n".encode("latin-1"), "are not UTF-8", {"encoding": "latin-1"}),
    ("a,b\n1,\u201cé\u201d\n".encode("cp1252"), "are not UTF-8", {"encoding": "cp1252"}),
    ("a,b\n1,é\n".encode("utf-16"), "are not UTF-8", {"encoding": "utf-16"}),
    ("a,b\n1,é\n".encode("utf-16-be"), "are not UTF-8", {"encoding": "utf-16-be"}),
    (b"a,b\n" + b"1,x\n" * 200_000 + b"1,\xe9\n", "are not UTF-8", {"encoding": "latin-1"}),
    (b"39, Private, <=50K\n50, ?, >50K\n", "`39` stands where a name should, above numbers",
     {"header": ("column_1", "column_2", "column_3")}),
    (b"6,148,72\n1,85,66\n", "stands where a name should", {"header": ("column_1", "column_2", "column_3")}),
    (b"b,x\nb,y\nc,x\n", "and again below it", {"header": ("column_1", "column_2")}),
]  # fmt: skip


@pytest.mark.parametrize(("content", "sentence", "remedy"), WRONG)
def test_a_wrong_setting_is_named_with_the_right_one(tmp_path, content, sentence, remedy):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SettingError) as caught:
        read_catalog(str(tmp_path))
    key, value = next(iter(remedy.items()))
    assert caught.value.settings == remedy
    assert "a.csv: its" in str(caught.value) and sentence in str(caught.value)
    shown = "[...]" if key == "header" else json.dumps(value)
    assert f"`data.read: {{{key}: {shown}}}`" in str(caught.value)
    read_catalog(str(tmp_path), ReadSpec.model_validate(remedy))


@pytest.mark.parametrize(
    "content",
    [b"0,1,2\n5,6,7\n8,9,1\n", b"town,2019,2020\nx,1,2\n", b",0\n0,5\n1,6\n", b"a;b,c\n1,2\n",
     b"yes,no\nno,yes\nyes,yes\n"[:7] + b"1,2\n", b"name\nA;B\nC\n", b"x1,x2\n1,2\n", b"a,b\n"],
)  # fmt: skip
def test_names_that_are_numbers_or_hold_a_delimiter_are_names_all_the_same(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    names = content.partition(b"\n")[0].decode().split(",")
    assert rows_of(tmp_path).column_names == names


def test_a_header_that_looks_like_data_can_be_kept(tmp_path):
    (tmp_path / "a.csv").write_text("\n\n5,7\n1,2\n")
    assert rows_of(tmp_path, ReadSpec(header=True)).to_pylist() == [{"5": 1, "7": 2}]
    listed = ReadSpec(header=("p", "q"))
    assert rows_of(tmp_path, listed).to_pylist() == [{"p": 5, "q": 7}, {"p": 1, "q": 2}]
    (tmp_path / "a.csv").write_text("p, q\n1,2")
    assert rows_of(tmp_path, listed).to_pylist() == [{"p": 1, "q": 2}]
    (tmp_path / "a.csv").write_text("width, height\n1,2\n")
    with pytest.raises(SettingError, match="its first row holds names, such as `width`"):
        read_catalog(str(tmp_path), listed)
    (tmp_path / "a.csv").write_text("1,2,3\n")
    with pytest.raises(DataError, match=r"has 3 columns; `data\.read\.header` names 2"):
        read_catalog(str(tmp_path), listed)


DOUBTS = [
    (["1,234", "85,077", "12"], ",", "with `,` between thousands, as in `1,234`", {"thousands": ","}),
    (["1,25", "3,4", "2"], ",", "with a decimal `,`", {"decimal": ",", "thousands": "."}),
    (["1,250", "3,400", "2"], ";", "with a decimal `,`", {"decimal": ",", "thousands": "."}),
    (["1 234", "85 077"], ",", "with ` ` between thousands", {"thousands": " "}),
    (["1", "?", "2.5", "NA"], ",", "numbers, except for `?`", {"missing": ("NA", "?")}),
    (["1,234", "?"], ",", "between thousands", {"thousands": ",", "missing": ("?",)}),
    ([*map(str, range(50)), "oops"], ",", "except for `oops`", {"missing": ("oops",)}),
]  # fmt: skip


@pytest.mark.parametrize(("values", "delimiter", "sentence", "remedy"), DOUBTS)
def test_texts_that_are_meant_as_numbers_are_doubted(tmp_path, values, delimiter, sentence, remedy):
    quoted = "\n".join(f'"{value}"{delimiter}x' for value in values)
    (tmp_path / "a.csv").write_text(f"rent{delimiter}b\n{quoted}\n")
    read = ReadSpec(delimiter=delimiter)
    doubt = read_catalog(str(tmp_path), read).doubts["rent"]
    assert doubt.is_number and sentence in doubt.what and dict(doubt.settings) == remedy
    better = read.model_copy(update=remedy)
    catalog = read_catalog(str(tmp_path), ReadSpec.model_validate(better.model_dump()))
    assert catalog.columns["rent"].kind == "number" and not catalog.doubts


@pytest.mark.parametrize(
    "values",
    [["007", "7"], ["+491234567", "+491234568"], ["12345678901234567890", "1"], ["0x1f", "0x2e"]],
)
def test_codes_stay_the_texts_that_they_are(tmp_path, values):
    (tmp_path / "a.csv").write_text("code\n" + "\n".join(values))
    catalog = read_catalog(str(tmp_path))
    assert rows_of(tmp_path)["code"].to_pylist() == values
    assert not catalog.doubts["code"].is_number and not catalog.doubts["code"].settings


def test_files_agree_on_types_before_they_are_read(tmp_path):
    (tmp_path / "0.csv").write_text("code,opt,x\n7,,1\n8,,2\n")
    (tmp_path / "1.csv").write_text("x,code,opt\n1.5,007,0.5\n")
    (tmp_path / "2.csv").write_text("code,opt,x\n")
    assert rows_of(tmp_path / "0.csv").to_pylist()[0] == {"code": 7, "opt": None, "x": 1}
    catalog = read_catalog(str(tmp_path))
    tables = [
        piece.table
        for piece in read_groups(catalog.row_groups, catalog.schema, ["code", "opt", "x"])
    ]
    assert pa.concat_tables(tables).to_pylist() == [
        {"code": "7", "opt": None, "x": 1.0}, {"code": "8", "opt": None, "x": 2.0},
        {"code": "007", "opt": 0.5, "x": 1.5},
    ]  # fmt: skip


cells = st.sampled_from(
    ["", " ", "NA", "?", "1", "-2", "3.5", "1e3", "007", "true", "False", "2024-01-01", "x", " x ",
     "2024-01-01 10:00", "2024-01-01T10:00:00.25", "2024-01-01T10:00:00Z", "nan", "é", '"', "a\nb"]
)  # fmt: skip
kinds = st.sampled_from(
    [["1", "-2", ""], ["3.5", "1", "1e3"], ["true", "False"], ["2024-01-01", ""]]
)
columns = st.lists(cells, min_size=8, max_size=8) | kinds.flatmap(
    lambda few: st.lists(st.sampled_from(few), min_size=8, max_size=8)
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.lists(columns, min_size=1, max_size=3), st.integers(0, 8))
def test_how_rows_lie_in_files_changes_nothing(tmp_path, values, cut):
    """Types are those of all values, and every text that stays one is as it was written."""

    def write(name: str, start: int, stop: int) -> str:
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow([f"c{i}" for i in range(len(values))])
            writer.writerows(list(zip(*values, strict=True))[start:stop])
        return str(tmp_path / name)

    whole = rows_of(write("whole.csv", 0, 8))
    parts = read_catalog([write("0.csv", 0, cut), write("1.csv", cut, 8)])
    tables = [
        piece.table for piece in read_groups(parts.row_groups, parts.schema, whole.column_names)
    ]
    assert pa.concat_tables(tables).equals(whole)
    for i, column in enumerate(values):
        found = whole[f"c{i}"]
        if pa.types.is_string(found.type):
            stripped = [text.strip(" \t") for text in column]
            assert found.to_pylist() == [None if t in ("", "NA", "nan") else t for t in stripped]
        elif pa.types.is_floating(found.type):
            known = [float(text) for text in column if text.strip() not in ("", "NA", "nan")]
            assert found.drop_null().to_pylist() == known


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("delimiter: ab", "at most 1 character"), ("delimiter: x", "cannot separate columns"),
     ("encoding: klingon", "is no encoding known here"), ("encoding: base64", "no encoding of text"),
     ("{decimal: ',', thousands: ','}", "cannot be both"), ("header: [a, a]", "names `a` twice"),
     ("header: []", "at least 1 item"), ("missing: [1.5]", "valid string"), ("quote: x", "unknown key")],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(make_job, text, sentence):
    from heliostat.errors import SpecError
    from heliostat.spec.load import load_job

    read = text if text.startswith("{") else f"{{{text}}}"
    data = f"data: {{source: a.csv, read: {read}, target: y, task: binary}}"
    with pytest.raises(SpecError, match=sentence):
        load_job(make_job(data=data))


def test_an_index_without_a_name_is_an_index(tmp_path):
    for names in (",a,y", "Unnamed: 0,a,y", "Unnamed: 0.1,Unnamed: 0,a,y"):
        rows = "".join(",".join(str(i) for _ in names.split(",")) + "\n" for i in range(3))
        (tmp_path / "a.csv").write_text(f"{names}\n{rows}")
        assert set(names.split(",")) - read_catalog(str(tmp_path)).index == {"a", "y"}


def test_an_encoding_that_utf_8_is_taken_for_is_noticed(tmp_path):
    (tmp_path / "a.csv").write_text("prénom,y\nZoé,1\n", encoding="utf-8")
    with pytest.raises(SettingError, match="its bytes are UTF-8; leave `encoding` out") as caught:
        read_catalog(str(tmp_path), ReadSpec(encoding="latin-1"))
    better = ReadSpec.model_validate(caught.value.settings)
    assert rows_of(tmp_path, better).column_names == ["prénom", "y"]
