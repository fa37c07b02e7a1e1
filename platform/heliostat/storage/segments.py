"""Rows of JSON in numbered segments: `00000.jsonl`, `00001.jsonl`, ...

Object stores cannot append, so a log is a folder of segments. A segment grows by whole lines; a
reader skips what is damaged, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from heliostat.storage.files import create_bytes, finite, write_bytes
from heliostat.storage.lines import Fault, Lines, Note, no_fault, read_lines, tell_once
from heliostat.storage.objects import ObjectPath, StorePath, matching

ROWS_PER_SEGMENT = 10_000
ROWS_PER_OBJECT = 500  # an object is put again with each row that is added to it


class Segments:
    """A log of rows in `folder`; each writer opens a segment of its own."""

    def __init__(self, folder: StorePath) -> None:
        self.folder = folder
        self._limit = ROWS_PER_OBJECT if isinstance(folder, ObjectPath) else ROWS_PER_SEGMENT
        self._segment: Lines | None = None
        self._num_rows = 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as whole lines and flush them."""
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        if self._segment is None or self._num_rows >= self._limit:
            self._segment, self._num_rows = self._new_segment(), 0
        self._segment.append("".join(lines))
        self._num_rows += len(lines)

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make `rows` the whole log, as a resumed run does: the first segment is published in
        one step, the others then go.
        """
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        paths = segment_paths(self.folder)
        write_bytes(self.folder / "00000.jsonl", "".join(lines).encode())
        for path in paths[1:]:
            path.unlink()
        self._segment = None

    def _new_segment(self) -> Lines:
        number = len(segment_paths(self.folder))
        while not create_bytes(path := self.folder / f"{number:05d}.jsonl", b""):
            number += 1
        return Lines(path)


def read_rows(
    folder: StorePath, note: Note = tell_once, fault: Fault = no_fault
) -> Iterator[dict[str, Any]]:
    """All rows of all segments, in order; see `read_lines`."""
    for path in segment_paths(folder):
        yield from read_lines(path, note, fault)


def segment_paths(folder: StorePath) -> list[StorePath]:
    """The segments of a log, in order."""
    return matching(folder, "[0-9][0-9][0-9][0-9][0-9].jsonl")
