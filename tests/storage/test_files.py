"""Published whole or not at all."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.errors import ArtifactError, UserError
from heliostat.storage.files import (
    create_bytes,
    encode_json,
    publish_folder,
    read_json,
    stage_folder,
)
from heliostat.storage.runs import Storage
from heliostat.storage.segments import Segments, read_rows


def test_creation_is_exclusive(tmp_path):
    assert create_bytes(tmp_path / "a", b"1")
    assert not create_bytes(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # no stage left


def test_the_second_publisher_of_a_folder_gives_way(tmp_path):
    first, second = stage_folder(tmp_path), stage_folder(tmp_path)
    (first / "x").write_text("1")
    (second / "x").write_text("2")
    assert publish_folder(first, tmp_path / "final")
    assert not publish_folder(second, tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "1" and not second.exists()


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


def test_a_torn_last_line_is_no_row(tmp_path):
    log = Segments(tmp_path)
    log.append([{"a": 1}, {"a": math.nan}])
    with (tmp_path / "00000.jsonl").open("a") as file:
        file.write('{"a": 3')
    assert list(read_rows(tmp_path)) == [{"a": 1}, {"a": None}]
    Segments(tmp_path).append([{"a": 4}])  # another writer, another segment
    assert [row["a"] for row in read_rows(tmp_path)] == [1, None, 4]


def test_a_replaced_log_holds_exactly_the_new_rows(tmp_path):
    for i in range(3):
        Segments(tmp_path).append([{"i": i}])
    log = Segments(tmp_path)
    log.replace([{"i": 7}])
    log.append([{"i": 8}])
    assert [row["i"] for row in read_rows(tmp_path)] == [7, 8]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 64, "trials"])
def test_run_ids_cannot_leave_the_storage(tmp_path, name):
    with pytest.raises(UserError, match="--id"):
        Storage.open(str(tmp_path)).run("job", name)
