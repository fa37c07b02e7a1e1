"""Which files a source names, on this machine or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic

from pyarrow import fs

from heliostat.catalog.places import Place, place_of
from heliostat.errors import DataError, Problem

Constant = tuple[str, str, int | float | str | None]


@dataclass(frozen=True)
class SourceFile:
    """A data file; `path` is relative to the source and part of every row's identity.

    `constants` are the columns that its folders name, with their Arrow types: `year=2013/`
    gives ("year", "int64", 2013). `marks` are a part of the file's place in the data digest.
    """

    path: str
    location: str
    num_bytes: int
    modified_ns: int
    constants: tuple[Constant, ...] = ()
    marks: tuple[str, ...] = ()


def list_source(source: str | Sequence[str]) -> tuple[SourceFile, ...]:
    """The files of a source (files, folders, globs, URIs), sorted by relative path.

    Raises:
        DataError: nothing there, or a table format's folder given as bare files.
    """
    sources = [source] if isinstance(source, str) else list(source)
    found = [_expand(item) for item in sources]
    if len({(place.prefix, place.suffix) for place, _ in found}) > 1:
        raise DataError(Problem("data.source", "lies in several stores", "name one store"))
    place = found[0][0]
    base = os.path.commonpath([base.path for base, _ in found])
    files = {}
    for info in (info for _, infos in found for info in infos):
        relative = os.path.relpath(info.path, base)
        location = place.location(info.path)
        files[relative] = SourceFile(relative, location, info.size, info.mtime_ns or 0)
    return tuple(files[relative] for relative in sorted(files))


def _expand(source: str) -> tuple[Place, list[fs.FileInfo]]:
    """The base folder of a file, folder or glob, and its data files."""
    place = place_of(source)
    try:
        fixed, info = _existing(place)
    except OSError as error:
        raise DataError(Problem("data.source", f"`{source}`: cannot be read: {error}")) from error
    if info.type == fs.FileType.NotFound:
        if not has_magic(place.path.removeprefix(fixed)):
            raise DataError(Problem("data.source", f"`{source}`: no such file or directory"))
        return _matches(place, _at(place, fixed), source)
    if info.type == fs.FileType.File:
        return _at(place, os.path.dirname(place.path)), [info]
    _refuse_table(place)
    files = _data_files(place)
    if not files:
        raise DataError(Problem("data.source", f"`{source}` holds no file"))
    return place, files


def _existing(place: Place) -> tuple[str, fs.FileInfo]:
    """What is at a path, and as much of the path as needs no glob: a name that exists as it is
    written is no pattern.
    """
    parts = place.path.split("/")
    end = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    while end < len(parts):
        folder = place.filesystem.get_file_info("/".join(parts[: end + 1]))
        if folder.type == fs.FileType.NotFound:
            return "/".join(parts[:end]) or "/", folder
        end = next((i for i in range(end + 1, len(parts)) if has_magic(parts[i])), len(parts))
    return place.path, place.filesystem.get_file_info(place.path)


def _matches(place: Place, base: Place, source: str) -> tuple[Place, list[fs.FileInfo]]:
    """The files below `base` that a glob matches."""
    patterns = os.path.relpath(place.path, base.path).split("/")
    _refuse_table(base)
    files = [
        info
        for info in _data_files(base)
        if _fits(os.path.relpath(info.path, base.path).split("/"), patterns)
    ]
    if not files:
        raise DataError(Problem("data.source", f"`{source}` matches no file"))
    for folder in {os.path.dirname(info.path) for info in files}:
        _refuse_table(_at(place, folder))
    return base, files


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path, in parts, matches a glob: `**` stands for any folders, the rest for one
    name each. A pattern that matches a folder takes the files in it.
    """
    if not patterns:
        return True
    first, rest = patterns[0], patterns[1:]
    if "**" not in first:
        return bool(names) and fnmatchcase(names[0], first) and _fits(names[1:], rest)
    least = 0 if first == "**" and rest else 1
    return any(
        (first == "**" or fnmatchcase("/".join(names[:end]), first)) and _fits(names[end:], rest)
        for end in range(least, len(names) + 1)
    )


def _data_files(place: Place) -> list[fs.FileInfo]:
    selector = fs.FileSelector(place.path, recursive=True, allow_not_found=True)
    return [
        info
        for info in place.filesystem.get_file_info(selector)
        if info.type == fs.FileType.File
        and not any(_hidden(part) for part in os.path.relpath(info.path, place.path).split("/"))
    ]


def _hidden(part: str) -> bool:
    return part.startswith((".", "_"))


def _at(place: Place, path: str) -> Place:
    return Place(place.filesystem, path, place.prefix, place.suffix)


def _refuse_table(place: Place) -> None:
    """Bare files of a Delta or Iceberg table include deleted and superseded rows."""
    folder = place.path
    while folder.strip("/"):
        location = place.location(folder)
        if _exists(place, f"{folder}/_delta_log"):
            kind, remedy = "a Delta table", f"{{delta: {location}, version: N}}"
        elif any(name.endswith(".metadata.json") for name in _names(place, f"{folder}/metadata")):
            kind, remedy = "an Iceberg table", "{iceberg: NAME, snapshot: ID}"
        else:
            folder = os.path.dirname(folder)
            continue
        raise DataError(
            Problem(
                "data.source",
                f"`{location}` is {kind}: its bare files hold rows that are no longer in it",
                f"write `source: {remedy}`",
            )
        )


def _exists(place: Place, path: str) -> bool:
    return bool(place.filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _names(place: Place, folder: str) -> Iterable[str]:
    selector = fs.FileSelector(folder, allow_not_found=True)
    if place.filesystem.get_file_info(folder).type != fs.FileType.Directory:
        return []
    return [info.base_name for info in place.filesystem.get_file_info(selector)]
