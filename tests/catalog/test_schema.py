"""One schema for all files of a data set: every value as it was written, whatever the order and
the size of the files; and what has no common meaning is a problem of its users alone.
"""

from __future__ import annotations

import datetime
import itertools
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.catalog.catalog import read_catalog
from heliostat.catalog.read import read_groups
from heliostat.catalog.widening import common_types
from heliostat.errors import DataError

DAY = datetime.date(2020, 1, 2)
NOON = datetime.datetime(2020, 1, 2, 12)
FAR = datetime.datetime(9999, 12, 31)
UTC = datetime.UTC


def write(folder, *columns: pa.Array, name: str = "c") -> str:
    folder.mkdir(exist_ok=True)
    for i, column in enumerate(columns):
        fields = [pa.field(name, column.type, nullable=i % 2 == 1 or bool(column.null_count))]
        pq.write_table(pa.table([column], schema=pa.schema(fields)), folder / f"{i}.parquet")
    return str(folder)


def rows_of(source, names=None, **options) -> pa.Table:
    catalog = read_catalog(str(source))
    read = read_groups(catalog.row_groups, catalog.schema, names, **options)
    return pa.concat_tables(piece.table for piece in read)


SAME = {
    "integers": ([pa.array([-1], pa.int8()), pa.array([2**40], pa.int64())], pa.int64()),
    "unsigned": ([pa.array([200], pa.uint8()), pa.array([-1], pa.int8())], pa.int16()),
    "large unsigned": ([pa.array([2**32], pa.uint64()), pa.array([-1], pa.int8())], pa.int64()),
    "largest": (
        [pa.array([2**64 - 1], pa.uint64()), pa.array([-1], pa.int64())], pa.decimal128(20, 0)
    ),
    "floats": ([pa.array([0.5], pa.float32()), pa.array([0.1], pa.float64())], pa.float64()),
    "small whole": ([pa.array([7], pa.int16()), pa.array([0.5], pa.float32())], pa.float32()),
    "whole": ([pa.array([7], pa.int64()), pa.array([0.5]), pa.array([3], pa.int8())], pa.float64()),
    "decimals": (
        [pa.array([Decimal("1.5")], pa.decimal128(5, 1)), pa.array([7], pa.int64()),
         pa.array([Decimal("0.25")], pa.decimal128(4, 2))], pa.decimal128(21, 2),
    ),
    "money": ([pa.array([Decimal("0.10")], pa.decimal128(9, 2)), pa.array([0.5])], pa.float64()),
    "texts": (
        [pa.array(["a", None]).dictionary_encode(), pa.array(["b"], pa.large_string()),
         pa.array(["ä"], pa.string_view())], pa.large_string(),
    ),
    "same texts": ([pa.array(["a"]).dictionary_encode(), pa.array(["b"])], pa.string()),
    "units": ([pa.array([FAR], pa.timestamp("ms")), pa.array([NOON], pa.timestamp("us"))],
              pa.timestamp("us")),
    "near": ([pa.array([NOON], pa.timestamp("ms")), pa.array([NOON], pa.timestamp("ns"))],
             pa.timestamp("ns")),
    "far": ([pa.array([FAR], pa.timestamp("ms")), pa.array([NOON], pa.timestamp("ns"))],
            pa.timestamp("us")),
    "days": ([pa.array([DAY]), pa.array([NOON], pa.timestamp("us"))], pa.timestamp("us")),
    "zones": ([pa.array([NOON], pa.timestamp("us", "Asia/Tokyo")),
               pa.array([NOON], pa.timestamp("ms", "UTC"))], pa.timestamp("us", "UTC")),
    "vectors": ([pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
                 pa.array([[0.1, 2.0]], pa.list_(pa.float64(), 2))], pa.list_(pa.float64(), 2)),
    "structs": ([pa.array([{"a": 1}]), pa.array([{"b": "x", "a": 2}])],
                pa.struct([("a", pa.int64()), ("b", pa.string())])),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_files_are_cast_to_one_type_in_any_order(tmp_path, case):
    arrays, type_ = SAME[case]
    for i, order in enumerate(itertools.permutations([*arrays, pa.nulls(1)])):
        source = write(tmp_path / str(i), *order)
        assert not read_catalog(source).problems_of("c")
        found = rows_of(source)
        assert found.schema == pa.schema([("c", type_)])
        for value, written in zip(found["c"], itertools.chain(*order), strict=True):
            if case == "money":
                assert value.as_py() in (None, 0.1, 0.5)
            elif case == "structs" and written.as_py():
                assert value.as_py() == {"b": None} | written.as_py()
            elif pa.types.is_date(written.type):
                assert value.as_py() == datetime.datetime.combine(DAY, datetime.time())
            else:
                assert value.as_py() == written.as_py()


APART = {
    "digits": (
        [pa.array([0.5]), pa.array([2**53 + 1])],
        "column `c` is int64, but double in 0.parquet: .*9007199254740993 not in range.* in "
        "1.parquet; write one type in all files",
    ),
    "fractions": (
        [pa.array([Decimal("0.1234567890123456789")]), pa.array([0.5])],
        "1.parquet: column `c` is double, but decimal128.* in 0.parquet: a value has more digits",
    ),
    "clocks": (
        [pa.array([NOON], pa.timestamp("us")), pa.array([NOON], pa.timestamp("us", "UTC"))],
        "times with a zone in all files, or in none",
    ),
    "days": ([pa.array([DAY]), pa.array([NOON], pa.timestamp("us", "UTC"))], "or in none"),
    "nanoseconds": (
        [pa.array([FAR], pa.timestamp("ms")), pa.array([1], pa.timestamp("ns"))], "out of bounds"
    ),
    "kinds": ([pa.array([1]), pa.array([True])], "column `c` is bool, but int64 in 0.parquet"),
    "words": ([pa.array(["1"]), pa.array([1])], "column `c` is int64, but string in 0.parquet"),
    "vectors": (
        [pa.array([[1.0]], pa.list_(pa.float32(), 1)), pa.array([[1.0]])], "column `c` is list"
    ),
    "nested": ([pa.array([{"a": 1}]), pa.array([1])], "column `c` is int64, but struct"),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_what_would_change_a_value_is_a_problem_of_its_users(tmp_path, case):
    arrays, sentence = APART[case]
    source = write(tmp_path / "d", *arrays)
    with pytest.raises(DataError, match=sentence):
        raise DataError(read_catalog(source).problems_of("c"))
    for i, array in enumerate(arrays):
        table = pa.table({"c": array, "x": pa.array([i], pa.int32() if i else pa.int64())})
        pq.write_table(table, tmp_path / "d" / f"{i}.parquet")
    assert read_catalog(source).problems_of("x") == []
    assert rows_of(source, ["x"])["x"].to_pylist() == [0, 1]
    assert rows_of(source).num_rows == 2  # what cannot be cast is text, or left out


def test_the_common_type_does_not_depend_on_an_order():
    some = [
        pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float32(), pa.decimal128(5, 2),
        pa.decimal256(60, 3), pa.string(), pa.large_string(), pa.string_view(), pa.date32(),
        pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Tokyo"), pa.null(),
        pa.dictionary(pa.int8(), pa.string()), pa.bool_(), pa.binary(), pa.list_(pa.int8()),
    ]  # fmt: skip
    for three in itertools.combinations(some, 3):
        first, *others = (common_types(order) for order in itertools.permutations(three))
        assert all(other == first for other in others), three


def test_an_old_time_of_the_year_9999_is_kept(tmp_path):
    times = pa.array([FAR, NOON, None, datetime.datetime(1, 1, 1)], pa.timestamp("us"))
    pq.write_table(
        pa.table({"t": times}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True
    )
    assert rows_of(tmp_path)["t"].to_pylist() == times.to_pylist()
    late = rows_of(tmp_path, ["t"], filter_text='t > "2021-01-01"')
    assert late["t"].to_pylist() == [FAR]


@pytest.mark.parametrize(
    ("type_", "value", "year"),
    [("timestamp[s]", 10**13, "318,857"), ("timestamp[us]", -(2**62), "-144,169"),
     ("date32[day]", 2**31 - 1, "5,881,581")],
)  # fmt: skip
def test_a_time_that_cannot_be_is_named(tmp_path, type_, value, year):
    whole = pa.int32() if type_ == "date32[day]" else pa.int64()
    times = pa.array([0, value], whole).cast(pa.type_for_alias(type_))
    source = write(tmp_path / "d", times)
    with pytest.raises(DataError, match=f"0.parquet: column `c` .* about the year {year}; .*mend"):
        rows_of(source, ["c"])
    assert rows_of(source).num_rows == 2  # nobody uses it


def test_text_that_is_not_utf8_is_named_and_nul_is_kept(tmp_path):
    raw = pa.array([b"a\x00b", b"caf\xe9", b"\x00"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    for values in (bad, bad.dictionary_encode(), bad.cast(pa.large_string())):
        source = write(tmp_path / "d", values)
        with pytest.raises(DataError, match=r"0.parquet: column `c` .*UTF-8, such as b'caf\\xe9'"):
            rows_of(source, ["c"])
        assert rows_of(source).num_rows == 3
    good = pa.array(["a\x00b", "\x00", "a\x00"])
    assert rows_of(write(tmp_path / "d", good), ["c"])["c"].to_pylist() == good.to_pylist()


def test_two_columns_of_one_name_are_a_problem_of_their_users(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["a", "a", "b"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("a,a,b\n1,2,4\n")
    catalog = read_catalog(str(tmp_path))
    assert "a.parquet: two columns are called `a`" in str(catalog.problems_of("a")[0])
    assert not catalog.problems_of("b")
    assert rows_of(tmp_path)["b"].to_pylist() == [3, 4]


def csv(folder, *texts: str) -> str:
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(texts):
        (folder / f"{i}.csv").write_text(text)
    return str(folder)


def test_what_is_guessed_of_text_files_is_one_guess(tmp_path):
    source = csv(
        tmp_path / "d",
        "code,opt,n,when,zip\n007,,1,2020-01-02,1\n7,,2,2020-01-02,2\n",
        "zip,code,opt,n,when\nx,8,0.5,2.5,2020-01-02 12:00:00\n",
        "code,opt,n,when,zip\n",
    )
    found = rows_of(source)
    assert found.to_pydict() == {
        "code": ["007", "7", "8"], "opt": [None, None, 0.5], "n": [1.0, 2.0, 2.5],
        "when": [datetime.datetime(2020, 1, 2)] * 2 + [NOON], "zip": ["1", "2", "x"],
    }  # fmt: skip
    columns = read_catalog(source).columns
    (tmp_path / "d" / "3.jsonl").write_text('{"n": 3, "zip": "1", "code": "7"}\n')
    assert rows_of(source)["opt"].to_pylist() == [None, None, 0.5, None]
    assert not read_catalog(source).problems_of(columns)


def folders(root, *names: str) -> str:
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        pq.write_table(pa.table({"x": [i]}), root / name / "a.parquet")
    return str(root)


@pytest.mark.parametrize(
    ("values", "type_", "read"),
    [
        (["02134", "2134", "00501"], "string", ["00501", "02134", "2134"]),
        ([f"{month:02}" for month in range(1, 13)], "string", [f"{m:02}" for m in range(1, 13)]),
        (["2021", "2022", "-1", "__HIVE_DEFAULT_PARTITION__"], "int64", [-1, 2021, 2022, None]),
        (["-0", "1"], "string", ["-0", "1"]),
        (["+1", "1"], "string", ["+1", "1"]),
        (["٣", "3"], "string", ["3", "٣"]),
        (["0.5", "2"], "double", [0.5, 2.0]),
        (["0.50", "2"], "string", ["0.50", "2"]),
        (["1", "1.0"], "string", ["1", "1.0"]),
        (["9007199254740993", "0.5"], "string", ["0.5", "9007199254740993"]),
        (["nan", "1.5"], "string", ["1.5", "nan"]),
        (["9999999999999999999"], "string", ["9999999999999999999"]),
        (["2020-01-02", "2020-01-03"], "date32[day]", [DAY, DAY.replace(day=3)]),
        (["2020-01-02", "2020-01-3"], "string", ["2020-01-02", "2020-01-3"]),
        (["20200102"], "int64", [20200102]),
        ([""], "string", [""]),
    ],
)
def test_a_key_of_folders_is_what_it_is_written_as(tmp_path, values, type_, read):
    source = folders(tmp_path / "d", *(f"k={value}" for value in values))
    assert str(read_catalog(source).schema.field("k").type) == type_
    found = rows_of(source)["k"].to_pylist()
    assert sorted(found, key=lambda value: (value is None, value)) == read


def test_data_that_was_read_otherwise_is_other_data(tmp_path):
    """A digest changes where the values did, and nowhere else."""
    plain = read_catalog(folders(tmp_path / "a", "k=1", "k=2", "k=x"))
    assert all(len(entry) == 4 for entry in plain.listing)
    renewed = read_catalog(folders(tmp_path / "b", "k=1", "k=02"))
    assert all(entry[4:] == ["k: string"] for entry in renewed.listing)
