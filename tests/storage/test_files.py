"""Published whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.errors import ArtifactError, StorageError, UserError
from heliostat.storage.cache import local_copy
from heliostat.storage.files import create_bytes, encode_json, read_json
from heliostat.storage.folders import copy_folder, publish_folder, remove_folder, stage_folder
from heliostat.storage.lines import Lines
from heliostat.storage.runs import Storage
from heliostat.storage.segments import Segments, read_rows


def test_creation_is_exclusive(storage_folder):
    assert create_bytes(storage_folder / "a", b"1")
    assert not create_bytes(storage_folder / "a", b"2")
    assert (storage_folder / "a").read_bytes() == b"1"
    names = [path.name for path in storage_folder.iterdir() if path.name != "cache"]
    assert names == ["a"]  # no stage left


def test_the_second_publisher_of_a_folder_gives_way(storage_folder):
    final = storage_folder / "final"
    first, second = stage_folder(storage_folder), stage_folder(storage_folder)
    for number, stage in enumerate((first, second), 1):
        (stage / "last.json").write_text(f'{{"format": {number}}}')
    assert publish_folder(first, final, "last.json")
    assert not publish_folder(second, final, "last.json")
    assert read_json(final / "last.json") == {"format": 1} and not second.exists()


def test_a_published_folder_is_copied_and_removed_whole(storage_folder):
    stage = stage_folder(storage_folder)
    (stage / "inner").mkdir()
    (stage / "inner" / "x").write_text("deep")
    (stage / "last.json").write_text("{}")
    publish_folder(stage, storage_folder / "one", "last.json")
    (storage_folder / "two").mkdir()
    copy_folder(storage_folder / "one", storage_folder / "two", "last.json")
    remove_folder(storage_folder / "one", "last.json")
    assert not (storage_folder / "one").exists()
    assert (storage_folder / "two" / "inner" / "x").read_text() == "deep"
    assert (local_copy(storage_folder / "two") / "inner" / "x").read_text() == "deep"


@given(
    st.recursive(
        st.floats() | st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_never_holds_a_number_that_is_none(value):
    json.loads(encode_json({"v": value}), parse_constant=lambda name: pytest.fail(name))


def test_damaged_and_future_files_are_told_apart(tmp_path):
    (tmp_path / "a.json").write_text('{"format": 1, "x"')
    with pytest.raises(ArtifactError, match="is damaged"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"format": 99}')
    with pytest.raises(ArtifactError, match="has format 99, this version reads up to 1"):
        read_json(tmp_path / "a.json")


def test_a_torn_last_line_is_no_row(storage_folder):
    log = Segments(storage_folder)
    log.append([{"a": 1}])
    log.append([{"a": math.nan}])
    first = storage_folder / "00000.jsonl"
    first.write_text(first.read_text() + '{"a": 3')
    assert list(read_rows(storage_folder)) == [{"a": 1}, {"a": None}]
    Segments(storage_folder).append([{"a": 4}])  # another writer, another segment
    assert [row["a"] for row in read_rows(storage_folder)] == [1, None, 4]


def test_a_replaced_log_holds_exactly_the_new_rows(storage_folder):
    for i in range(3):
        Segments(storage_folder).append([{"i": i}])
    log = Segments(storage_folder)
    log.replace([{"i": 7}])
    log.append([{"i": 8}])
    assert [row["i"] for row in read_rows(storage_folder)] == [7, 8]


def test_a_full_disk_is_told_as_one():
    with pytest.raises(StorageError, match="/dev/full: cannot be written: No space left"):
        Lines(Path("/dev/full")).append("x" * 100_000)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 64, "trials"])
def test_run_ids_cannot_leave_the_storage(tmp_path, name):
    with pytest.raises(UserError, match="--id"):
        Storage.open(str(tmp_path)).run("job", name)
