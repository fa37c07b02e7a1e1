"""Streams that are closed, full, or not read any more; a folder that is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

H = f"{sys.executable} -m heliostat"


def shell(line: str, cwd: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("heliostat", H)], capture_output=True, text=True, cwd=str(cwd)
    )


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("heliostat schema <&- >&- 2>&-", 0, ""),
        ("heliostat plan nothing.yaml <&- >&- 2>&-", 2, ""),
        ("heliostat plan nothing.yaml >&-", 2, "nothing.yaml"),
        ("heliostat schema | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("heliostat schema | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("heliostat plan nothing.yaml 2>&1 | true; exit ${PIPESTATUS[0]}", 2, ""),
        ("heliostat schema > /dev/full", 1, "the output cannot be written: No space left"),
        ("mkdir x; cd x; rmdir ../x; heliostat status", 2, "the working directory is gone"),
        ("HOME=/nowhere TMPDIR=/nowhere heliostat status --storage s", 0, ""),
    ],
)
def test_a_verb_ends_with_its_status_and_a_sentence(tmp_path, line, status, told):
    done = shell(line, tmp_path)
    assert done.returncode == status, done.stderr
    assert told in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_closed_stream_is_no_file_of_ours(tmp_path):
    """What opens first would have the number of a stream that is closed."""
    code = (
        "from heliostat.cli.lasting import open_streams; open_streams()\n"
        "import os; file = open('mine', 'w'); os.write(1, b'of a library'); file.close()"
    )
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], cwd=tmp_path
    )
    assert done.returncode == 0 and (tmp_path / "mine").read_text() == ""
