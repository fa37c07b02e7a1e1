"""Rows of JSON in numbered segments: `00000.jsonl`, `00001.jsonl`, ...

Object stores cannot append, so a log is a folder of segments. On a local disk a segment grows
by whole lines; a reader ignores a last line that has no end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from heliostat.storage.files import finite, write_bytes

ROWS_PER_SEGMENT = 10_000


class Segments:
    """A log of rows in `folder`; each writer opens a segment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment: Path | None = None
        self._num_rows = 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as whole lines and flush them."""
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        if not lines:
            return
        if self._segment is None or self._num_rows >= ROWS_PER_SEGMENT:
            self._segment, self._num_rows = self._new_segment(), 0
        with self._segment.open("a", encoding="utf-8") as handle:
            handle.write("".join(lines))
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

    def _new_segment(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(segment_paths(self.folder))
        while True:
            path = self.folder / f"{number:05d}.jsonl"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                return path
            except FileExistsError:
                number += 1


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """All whole rows of all segments, in order."""
    for path in segment_paths(folder):
        yield from _rows_in(path)


def segment_paths(folder: Path) -> list[Path]:
    """The segments of a log, in order."""
    return sorted(folder.glob("[0-9][0-9][0-9][0-9][0-9].jsonl"))


def _rows_in(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
