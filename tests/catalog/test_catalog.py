"""Sources: what footers tell, and what is refused by name."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliostat.catalog.catalog import read_catalog
from heliostat.errors import DataError
from tests.conftest import write_table


def test_a_catalog_counts_without_reading_a_page(table):
    catalog = read_catalog(str(table))
    assert (len(catalog.files), catalog.num_rows, len(catalog.row_groups)) == (3, 1200, 9)
    assert [group.first_row for group in catalog.row_groups[:4]] == [0, 150, 300, 0]
    kinds = {name: column.kind for name, column in catalog.columns.items()}
    assert kinds["x"] == "number" and kinds["color"] == "category" and kinds["when"] == "time"


def test_file_folder_glob_and_list_are_the_same_source(table):
    folder = read_catalog(str(table))
    paths = [str(path) for path in sorted(table.iterdir())]
    for source in (f"{table}/*.parquet", paths, paths[::-1]):
        assert read_catalog(source).digest == folder.digest


def test_the_digest_notices_every_change(tmp_path):
    folder = write_table(tmp_path / "a")
    digest = read_catalog(str(folder)).digest
    shutil.copytree(folder, tmp_path / "b", copy_function=shutil.copy2)
    assert read_catalog(str(tmp_path / "b")).digest == digest
    (tmp_path / "b" / "part-00.parquet").touch()
    assert read_catalog(str(tmp_path / "b")).digest != digest


def refusal(source) -> str:
    with pytest.raises(DataError) as caught:
        read_catalog(str(source))
    return str(caught.value)


def test_what_is_no_parquet_is_named(tmp_path, table):
    whole = (table / "part-00.parquet").read_bytes()
    (tmp_path / "text.parquet").write_text("hello, I am no Parquet at all")
    assert "text.parquet: is not a Parquet file" in refusal(tmp_path)
    (tmp_path / "text.parquet").write_bytes(whole[:-100])
    assert "is a Parquet file cut short: its footer is missing" in refusal(tmp_path)
    (tmp_path / "text.parquet").write_bytes(whole[:-200] + b"\xff" * 150 + whole[-50:])
    assert "has a damaged Parquet footer" in refusal(tmp_path)
    (tmp_path / "text.parquet").write_bytes(b"")
    assert "is not a Parquet file" in refusal(tmp_path)


def test_missing_places_are_named(tmp_path):
    assert "no such file or directory" in refusal(tmp_path / "nowhere")
    assert "matches no file" in refusal(tmp_path / "*.parquet")
    assert "holds no file" in refusal(tmp_path)


def test_table_formats_are_never_read_as_bare_files(tmp_path, table):
    delta = shutil.copytree(table, tmp_path / "delta")
    (delta / "_delta_log").mkdir()
    for source in (delta, delta / "*.parquet"):
        assert "is a Delta table" in refusal(source) and "{delta: " in refusal(source)
    iceberg = shutil.copytree(table, tmp_path / "iceberg" / "data").parent
    (iceberg / "metadata").mkdir()
    (iceberg / "metadata" / "v1.metadata.json").write_text("{}")
    for source in (iceberg, iceberg / "data", iceberg / "data" / "*.parquet"):
        assert "is an Iceberg table" in refusal(source)


def test_a_name_that_exists_is_no_pattern(tmp_path):
    """Of a file, of a folder, and of a folder above that nobody wrote as a pattern."""
    folder = tmp_path / "run[1]"
    for name, value in {"data[1]": 1, "data1": 2, "data2": 3, "what?": 4, "a@b": 5}.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"a": [value]}), folder / name / "x[0].parquet")
        pq.write_table(pa.table({"a": [value]}), folder / f"{name}.parquet")

    def rows(source: str) -> int:
        return read_catalog(f"{folder}/{source}").num_rows

    assert rows("data[1].parquet") == rows("data[1]") == rows("what?.parquet") == 1
    assert [f.path for f in read_catalog(f"{folder}/data[1]/*").files] == ["x[0].parquet"]
    assert rows("data[12].parquet") == rows("data[!1].parquet") + 1 == 2
    assert rows("data?/x[[]0].parquet") == 2 and rows("**/*0[]].parquet") == 5
    assert rows("**") == 10 and rows("*") == 10
    (folder / "data[1].parquet").unlink()
    assert [f.path for f in read_catalog(f"{folder}/data[1].parquet").files] == ["data1.parquet"]
    assert "matches no file" in refusal(f"{folder}/data[z-a].parquet")
    assert "no such file" in refusal(f"{folder}/nothing")


def test_columns_that_files_have_differently_are_named(tmp_path):
    """To those who use them: for the others they are no obstacle."""
    pq.write_table(pa.table({"a": [1], "b": [1.0], "d": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"], "c": [1.0], "d": [2]}), tmp_path / "2.parquet")
    catalog = read_catalog(str(tmp_path))
    problems = {str(problem) for problem in catalog.problems_of("abcd")}
    assert problems == {
        f"{tmp_path}/2.parquet: column `a` is string, but int64 in 1.parquet; write one type in "
        "all files",
        f"{tmp_path}/2.parquet: lacks column `b`, which other files have",
        f"{tmp_path}/1.parquet: lacks column `c`, which other files have",
    }
    assert not catalog.problems_of("d")
