r"""A file that grows by lines. On a file system it is appended to; an object store cannot, so
there the lines are kept here and put as a whole each time.

Only `\n` ends a line: names may hold U+0085 or U+2028. What a full disk or a killed process left
of a line never joins the next one, and never hides the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from heliostat.errors import StorageError
from heliostat.storage.files import on_full_disk
from heliostat.storage.objects import ObjectPath, StorePath

MOST_TOLD = 5
Row = dict[str, Any]
Note = Callable[[str], None]
Fault = Callable[[Mapping[str, Any]], str]  # what is wrong with a row; empty: nothing


class Lines:
    """Appends to a file that this process alone writes."""

    def __init__(self, path: StorePath) -> None:
        self.path = path
        self._kept: list[str] = []

    def append(self, text: str) -> None:
        """Write whole lines, and flush them: all of them, or none.

        Raises:
            StorageError: there is no room, or the store does not answer.
        """
        if isinstance(self.path, ObjectPath):
            self.path.write_text("".join([*self._kept, text]))
            self._kept.append(text)
            return
        with on_full_disk(self.path):
            _append(self.path, text.encode())


def read_lines(path: StorePath, note: Note, fault: Fault) -> Iterator[Row]:
    """The objects of a file of JSON lines, in order; `note` is told once which lines are skipped:
    damaged ones, copies of earlier ones, and those that have a `fault`.
    """
    skipped: list[str] = []
    seen: set[bytes] = set()
    try:
        lines = path.read_bytes().split(b"\n")
    except (OSError, StorageError) as error:
        note(f"{path}: is skipped: {error}")
        return
    if not lines[-1]:
        lines.pop()  # the last line has its end
    for number, line in enumerate(lines, 1):
        row, reason = _row(line)
        if row is not None:
            reason = "a copy of an earlier line" if line in seen else fault(row)
            seen.add(line)
        if reason:
            skipped.append(f"line {number} ({reason})")
        elif row is not None:
            yield row
    if skipped:
        more = f" and {len(skipped) - MOST_TOLD} more" if len(skipped) > MOST_TOLD else ""
        told = ", ".join(skipped[:MOST_TOLD])
        note(f"{path}: {len(skipped)} of {len(lines)} lines are skipped: {told}{more}")


def split_lines(text: str) -> list[str]:
    """The lines of a text."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


@cache
def tell_once(text: str) -> None:
    """A note on stderr, unless this process has told it already."""
    sys.stderr.write(f"note: {text}\n")


def no_fault(row: Mapping[str, Any]) -> str:
    """Any row will do."""
    return ""


def _row(line: bytes) -> tuple[Row | None, str]:
    """The object in a line, or why there is none."""
    if not line.strip():
        return None, "empty"
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None, "damaged or cut short"
    return (value, "") if isinstance(value, dict) else (None, "no row")


def _append(path: Path, content: bytes) -> None:
    with path.open("ab", buffering=0) as handle:
        size = handle.tell()
        try:
            left = memoryview(_begin(path, size) + content)
            while left:
                left = left[handle.write(left) :]
        except OSError:
            with suppress(OSError):  # what remains is closed by the next line's `_begin`
                os.ftruncate(handle.fileno(), size)
            raise


def _begin(path: Path, size: int) -> bytes:
    """What ends a line that was cut short, if the file has one."""
    if size == 0:
        return b""
    with path.open("rb") as handle:
        handle.seek(size - 1)
        return b"" if handle.read(1) == b"\n" else b"\n"
