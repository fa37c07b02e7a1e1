"""Columns that folders name: `year=2013/`. A key is a text, unless its every value is a number
or a date in the one form that it is written in: `01` and `1` are two values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import date
from urllib.parse import unquote

from heliostat.catalog.files import Constant, SourceFile

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
EXACT_IN_DOUBLE = 2**53
TEXT, WHOLE, NUMBER, DATE = "string", "int64", "double", "date32[day]"


def with_constants(
    files: Sequence[SourceFile], texts: Collection[str] = (), above: Collection[str] = ()
) -> tuple[SourceFile, ...]:
    """The files with the columns that their folders name. Those among `texts` are texts; those
    among `above` may be named by the folders that the source itself lies in.
    """
    named = [_values_above(file, above) | _folder_values(file.path) for file in files]
    values: dict[str, set[str]] = {}
    for own in named:
        for key, value in own.items():
            values.setdefault(key, set()).update(() if value is None else (value,))
    types = {key: TEXT if key in texts else _type(own) for key, own in values.items()}
    marks = {key: _marks(key, types[key], own) for key, own in values.items()}
    return tuple(
        replace(
            file,
            constants=tuple(_constant(key, types[key], value) for key, value in own.items()),
            marks=tuple(mark for key in own for mark in marks[key]),
        )
        for file, own in zip(files, named, strict=True)
    )


def _folder_values(path: str) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {key: None if value == NO_VALUE else unquote(value) for key, value in pairs}


def _values_above(file: SourceFile, keys: Collection[str]) -> dict[str, str | None]:
    """Of all the folders that the file lies in, the values of some keys."""
    if not keys:
        return {}
    return {key: value for key, value in _folder_values(file.location).items() if key in keys}


def _type(values: set[str]) -> str:
    if all(map(_is_whole, values)):
        return WHOLE
    if all(map(_is_date, values)):
        return DATE
    numbers = all(map(_is_number, values)) and len(set(map(float, values))) == len(values)
    return NUMBER if numbers else TEXT


def _is_whole(value: str) -> bool:
    return WHOLE_NUMBER.fullmatch(value) is not None and str(int(value)) == value


def _is_number(value: str) -> bool:
    if _is_whole(value):
        return abs(int(value)) <= EXACT_IN_DOUBLE
    return _is_written(value, float) and value.strip("-")[:1].isdigit()


def _is_date(value: str) -> bool:
    return _is_written(value, date.fromisoformat)


def _is_written(value: str, read: Callable[[str], object]) -> bool:
    """Whether a value would be written just so."""
    try:
        return str(read(value)) == value
    except ValueError:
        return False


def _marks(key: str, type_: str, values: set[str]) -> tuple[str, ...]:
    """What tells apart data that earlier releases read as other types, and what they made of it."""
    before = WHOLE if all(map(WHOLE_NUMBER.fullmatch, values)) else TEXT
    return () if type_ == before else (f"{key}: {type_}",)


def _constant(key: str, type_: str, value: str | None) -> Constant:
    if value is None or type_ in (TEXT, DATE):
        return key, type_, value
    return key, type_, int(value) if type_ == WHOLE else float(value)
