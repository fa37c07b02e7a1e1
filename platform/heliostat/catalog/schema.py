"""One schema for all files of a data set. It does not depend on the order of the files, nor on
their sizes. A column whose types have nothing in common is a problem of those who use it only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from pyarrow import types

from heliostat.catalog.casts import cast_exactly
from heliostat.catalog.columns import Column, Footer, column_of
from heliostat.catalog.delimited import layout_of
from heliostat.catalog.files import SourceFile
from heliostat.catalog.formats import JSON_LINES, format_of, integer_bounds, read_column
from heliostat.catalog.widening import common_types, is_text, may_lose
from heliostat.errors import DataError, Problem
from heliostat.spec.read import ReadSpec

THREADS = 8
WHOLE_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Unified:
    """`schema` is what every file is cast to; `columns` are all columns by name, also those that
    no reader can give. `mixed` are the names and types of those that files have differently.
    """

    schema: pa.Schema
    columns: dict[str, Column]
    mixed: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Variant:
    """Files with the same columns. `folders` are those that their folders name; of these `digits`
    are texts that are whole numbers. `layout` is how delimited text is read.
    """

    files: tuple[SourceFile, ...]
    types: dict[str, pa.DataType]
    repeated: frozenset[str]
    folders: frozenset[str]
    digits: frozenset[str]
    layout: str

    @property
    def first(self) -> SourceFile:
        """A file to name."""
        return self.files[0]

    @property
    def omits_nulls(self) -> bool:
        """Whether a column may lack because it has no value."""
        return format_of(self.first.location) == JSON_LINES

    def is_written(self, name: str) -> bool:
        """Whether the values are names of folders, which as text are what is written there."""
        return name in self.folders and not types.is_floating(self.types[name])

    def is_whole(self, name: str) -> bool:
        """Whether the values are written as whole numbers."""
        type_ = self.types[name]
        written = types.is_integer(type_) and self.is_written(name)
        return written or types.is_null(type_) or name in self.digits


def unify(files: Sequence[SourceFile], footers: Sequence[Footer], read: ReadSpec) -> Unified:
    """The one schema of some files; columns in the order that most files have. `read` says how
    delimited text is written.
    """
    variants = _variants(files, footers, read)
    names = _names(variants)
    fields: list[pa.Field] = []
    columns: dict[str, Column] = {}
    mixed: list[tuple[str, str]] = []
    for name in names:
        column, type_ = _unified(name, variants)
        columns[name] = column
        if type_ is not None:
            fields.append(pa.field(name, type_))
        if len({variant.types.get(name) for variant in variants}) > 1:
            mixed.append((name, column.type))
    return Unified(pa.schema(fields), columns, tuple(mixed))


def _names(variants: Sequence[_Variant]) -> list[str]:
    orders: dict[tuple[str, ...], int] = {}
    for variant in variants:
        order = tuple(variant.types)
        orders[order] = orders.get(order, 0) + len(variant.files)
    usual = sorted(orders, key=lambda order: (-orders[order], order))
    return list(dict.fromkeys(name for order in usual for name in order))


def _variants(
    files: Sequence[SourceFile], footers: Sequence[Footer], read: ReadSpec
) -> list[_Variant]:
    schemas: list[pa.Schema] = []
    found: dict[object, tuple[int, list[SourceFile]]] = {}
    for i, (file, footer) in enumerate(zip(files, footers, strict=True)):
        own = footer.schema
        number = next((n for n, known in enumerate(schemas) if known.equals(own)), len(schemas))
        if number == len(schemas):
            schemas.append(own)
        folders = tuple((name, type_) for name, type_, _ in file.constants)
        key = number, format_of(file.location), folders
        found.setdefault(key, (i, []))[1].append(file)
    digits = _digits_of_folders(files)
    return [
        _variant(tuple(some), footers[i].schema, digits, layout_of(footers[i].schema, read))
        for i, some in found.values()
    ]


def _variant(
    files: tuple[SourceFile, ...], schema: pa.Schema, digits: frozenset[str], layout: str
) -> _Variant:
    folders = {name: pa.type_for_alias(type_) for name, type_, _ in files[0].constants}
    own = dict(zip(schema.names, schema.types, strict=True))
    repeated = frozenset(_repeated(schema.names)) - folders.keys()
    whole = frozenset(name for name in folders.keys() & digits if is_text(folders[name]))
    # A folder's name goes before what the file says.
    return _Variant(files, own | folders, repeated, frozenset(folders), whole, layout)


def _repeated(names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _digits_of_folders(files: Sequence[SourceFile]) -> frozenset[str]:
    """The keys of folders whose every value is a whole number, but kept as text."""
    found: dict[str, bool] = {}
    for file in files:
        for name, type_, value in file.constants:
            if type_ == "string":
                digits = value is None or WHOLE_NUMBER.fullmatch(str(value)) is not None
                found[name] = digits and found.get(name, True)
    return frozenset(name for name, digits in found.items() if digits)


def _unified(name: str, variants: Sequence[_Variant]) -> tuple[Column, pa.DataType | None]:
    """The column, and its type if it can be read of every file."""
    holders = [variant for variant in variants if name in variant.types]
    for variant in holders:
        if name in variant.repeated:
            message = f"two columns are called `{name}`"
            problem = Problem(variant.first.location, message, "give each a name of its own")
            return replace(column_of(name, variant.types[name]), problem=problem), None
    found = [variant.types[name] for variant in holders]
    choices = common_types(found) or _as_text(name, holders)
    failure = ""
    for choice in choices:
        failure_of = partial(_failure, name=name, choice=choice)
        failed = next(((v.first, e) for v in holders if (e := failure_of(v))), None)
        if failed is None:
            column = replace(column_of(name, choice), digits=_is_digits(name, holders))
            column = replace(column, note=_note(name, holders, choice))
            return replace(column, problem=_lack(name, variants)), choice
        failure = failure or f": {failed[1]}"
    words = " and ".join(dict.fromkeys(str(type_) for type_ in found))
    column = Column(name, words, "other", problem=_conflict(name, holders, failure))
    return column, pa.string() if all(map(_has_text, found)) else None


def _as_text(name: str, holders: Sequence[_Variant]) -> tuple[pa.DataType, ...]:
    """What is written in names of folders may always stay text."""
    given = [v.types[name] for v in holders if not v.is_written(name)]
    return common_types([*given, pa.string()]) if all(map(is_text, given)) else ()


def _failure(variant: _Variant, name: str, choice: pa.DataType) -> str:
    """Why the values of some file are not the same in the type chosen."""
    old = variant.types[name]
    if not may_lose(old, choice):
        return ""
    field = pa.field(name, old)
    with ThreadPoolExecutor(THREADS) as pool:
        told = pool.map(lambda file: _lost(file, field, variant.layout, choice), variant.files)
        return next((f"{message} in {place}" for place, message in told if message), "")


def _lost(file: SourceFile, field: pa.Field, layout: str, choice: pa.DataType) -> tuple[str, str]:
    """The file, and why its values are not the same in the type chosen."""
    try:
        whole = types.is_integer(field.type)
        bounds = integer_bounds(file.location, field.name) if whole else None
        if bounds is not None:
            cast_exactly(pa.chunked_array([pa.array(bounds, field.type)]), choice)
        else:
            for values in read_column(file.location, field, layout):
                cast_exactly(values, choice)
    except (pa.ArrowException, OSError, DataError) as error:
        return file.path, str(error)
    return file.path, ""


def _is_digits(name: str, holders: Sequence[_Variant]) -> bool:
    return all(v.is_whole(name) for v in holders) and any(name in v.digits for v in holders)


def _note(name: str, holders: Sequence[_Variant], choice: pa.DataType) -> str:
    """What is said of times of several zones."""
    zones = {str(tz) for v in holders if (tz := getattr(v.types[name], "tz", None))}
    if len(zones) < 2 or not types.is_timestamp(choice):
        return ""
    return f"`{name}`: files give times in the zones {', '.join(sorted(zones))}; read as UTC"


def _lack(name: str, variants: Sequence[_Variant]) -> Problem | None:
    for variant in variants:
        if name not in variant.types and not variant.omits_nulls:
            place = variant.first.location
            return Problem(place, f"lacks column `{name}`, which other files have")
    return None


def _conflict(name: str, holders: Sequence[_Variant], failure: str) -> Problem:
    first, *others = (v for v in holders if not types.is_null(v.types[name]))
    different = [v for v in others if v.types[name] != first.types[name]]
    apart = [v for v in different if not common_types([first.types[name], v.types[name]])]
    other = (apart or different)[0]
    message = (
        f"column `{name}` is {other.types[name]}, but {first.types[name]} in {first.first.path}"
        f"{failure}"
    )
    zones = {bool(getattr(v.types[name], "tz", None)) for v in (first, other)}
    hint = "write one type in all files"
    if len(zones) == 2 and all(types.is_temporal(v.types[name]) for v in (first, other)):
        hint = "write times with a zone in all files, or in none"
    return Problem(other.first.location, message, hint)


def _has_text(type_: pa.DataType) -> bool:
    """Whether Arrow can write its values as text."""
    if types.is_dictionary(type_):
        return _has_text(type_.value_type)
    if "binary" in str(type_):  # of which not all is text
        return False
    try:
        pa.array([], type_).cast(pa.string())
    except (pa.ArrowException, TypeError):
        return False
    return True
