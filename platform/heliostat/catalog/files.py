"""Which files a source names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heliostat.errors import DataError, Problem, UnavailableError

OTHER_FORMATS = {".csv", ".tsv", ".json", ".jsonl", ".arrow", ".feather", ".ipc"}


@dataclass(frozen=True)
class SourceFile:
    """A data file; `path` is relative to the source and part of every row's identity."""

    path: str
    location: str
    num_bytes: int
    modified_ns: int


def list_source(source: str | Sequence[str]) -> tuple[SourceFile, ...]:
    """The files of a source, sorted by relative path.

    Raises:
        DataError: nothing there, or a table format's folder given as bare Parquet.
        UnavailableError: a place or format that is not available yet.
    """
    sources = [source] if isinstance(source, str) else list(source)
    found = [(base, path) for item in sources for base, path in _expand(item)]
    base = os.path.commonpath([base for base, _ in found])
    files = {}
    for _, path in found:
        status = path.stat()
        relative = path.relative_to(base).as_posix()
        files[relative] = SourceFile(relative, str(path), status.st_size, status.st_mtime_ns)
    return tuple(files[relative] for relative in sorted(files))


def _expand(source: str) -> list[tuple[Path, Path]]:
    """(base folder, file) pairs of one file, folder or glob."""
    if "://" in source:
        raise UnavailableError(
            Problem("data.source", f"`{source}`: remote sources are not available yet")
        )
    source = os.path.abspath(os.path.expanduser(source))
    path = Path(source)
    if path.is_dir():
        return [(path, file) for file in _data_files(path)]
    if path.is_file():
        return [(path.parent, _checked(path))]
    if glob.has_magic(source):
        matches = sorted(Path(match) for match in glob.glob(source, recursive=True))
        files = [
            file
            for match in matches
            for file in (_data_files(match) if match.is_dir() else [_checked(match)])
        ]
        if files:
            base = _fixed_part(source)
            _refuse_table(base)
            return [(base, file) for file in files]
        raise DataError(Problem("data.source", f"`{source}` matches no file"))
    raise DataError(Problem("data.source", f"`{source}`: no such file or directory"))


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _data_files(folder: Path) -> Iterable[Path]:
    _refuse_table(folder)
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(_hidden(part) for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(Problem("data.source", f"`{folder}` holds no file"))
    if any("=" in part for file in files for part in file.relative_to(folder).parts[:-1]):
        raise UnavailableError(
            Problem("data.source", f"`{folder}`: Hive partitions are not available yet")
        )
    return [_checked(path) for path in files]


def _hidden(part: str) -> bool:
    return part.startswith((".", "_"))


def _checked(path: Path) -> Path:
    if path.suffix.lower() in OTHER_FORMATS:
        raise UnavailableError(
            Problem(str(path), f"{path.suffix} files are not available yet; convert to Parquet")
        )
    return path


def _refuse_table(folder: Path) -> None:
    """Bare files of a Delta or Iceberg table include deleted and superseded rows."""
    for place in (folder, *folder.parents):
        if (place / "_delta_log").is_dir():
            kind, remedy = "a Delta table", f"{{delta: {place}, version: N}}"
        elif any((place / "metadata").glob("*.metadata.json")):
            kind, remedy = "an Iceberg table", "{iceberg: NAME, snapshot: ID}"
        else:
            continue
        raise DataError(
            Problem(
                "data.source",
                f"`{place}` is {kind}: its bare files hold rows that are no longer in it",
                f"write `source: {remedy}`",
            )
        )
