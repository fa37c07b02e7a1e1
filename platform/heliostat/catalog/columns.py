"""Columns and footers: what a file tells about itself, whatever its format."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

import pyarrow as pa

from heliostat.errors import Problem

PANDAS = b"pandas"
UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?(\.\d+)*)?")
INDEX_NAME = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)*")
ColumnKind = Literal["number", "boolean", "category", "time", "vector", "nested", "other"]


@dataclass(frozen=True)
class Column:
    """A column's name, its Arrow type in words, and what heliostat takes it for; `size` is
    that of a vector. `problem` is why nobody can use it: files have it differently, or not at
    all. `note` is what its users should know. `digits`: a text whose every value is a whole
    number, some of them with leading zeros.
    """

    name: str
    type: str
    kind: ColumnKind
    size: int = 0
    problem: Problem | None = None
    note: str = ""
    digits: bool = False

    @property
    def is_number(self) -> bool:
        """Whether its values can be read as numbers."""
        return self.kind == "number" or self.digits


Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Doubt:
    """What may be wrong with a column of text: most likely it `is_number`, or else it is text all
    the same. `settings` are the keys of `data.read` under which it would be read so.
    """

    column: str
    what: str
    is_number: bool
    settings: Settings = ()

    def keeping(self, words: Sequence[str]) -> Doubt:
        """With the words for no value that hold already."""
        named = dict(self.settings)
        if "missing" in named:
            named["missing"] = (*words, *named["missing"])
        return replace(self, settings=tuple(named.items()))

    @property
    def remedy(self) -> str:
        """What to write in the job file; empty: nothing."""
        if not self.settings:
            return ""
        written = (
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in self.settings
        )
        return f"write `data.read: {{{', '.join(written)}}}`"


@dataclass(frozen=True)
class Footer:
    """The columns, the rows of each row group, and a hash of what the file says of itself;
    `largest` is the largest absolute value of integer columns, where statistics tell; `index`
    are the columns that pandas wrote for a table's index; `doubts` are about columns of text.
    """

    schema: pa.Schema
    group_rows: tuple[int, ...]
    digest: str
    largest: tuple[tuple[str, int], ...] = ()
    index: frozenset[str] = frozenset()
    doubts: tuple[Doubt, ...] = ()


def column_of(name: str, type_: pa.DataType) -> Column:
    """A column of an Arrow type."""
    return Column(name, str(type_), kind_of(type_), _size(type_))


def index_columns(schema: pa.Schema) -> frozenset[str]:
    """The columns of a schema that hold the index of a table of pandas: those that its own notes
    name, and those with the names that pandas gives an index without one.
    """
    try:
        noted = json.loads((schema.metadata or {}).get(PANDAS, b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):
        noted = []
    named = {name for name in noted if isinstance(name, str)}  # a range is written as a mapping
    usual = {name for name in schema.names if INDEX_NAME.fullmatch(name)}
    return frozenset(named & set(schema.names) | usual)


def leading_index(schema: pa.Schema) -> frozenset[str]:
    """The columns of a delimited file that pandas wrote for a table's index: without a name, before
    all others.
    """
    leading = takewhile(lambda name: UNNAMED.fullmatch(name) is not None, schema.names)
    return index_columns(schema) | frozenset(leading)


def kind_of(type_: pa.DataType) -> ColumnKind:
    """What a column of this Arrow type is taken for unless the job file says otherwise."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if (
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    ):
        return "category"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "time"
    if pa.types.is_fixed_size_list(type_) and kind_of(type_.value_type) == "number":
        return "vector"
    return "nested" if pa.types.is_nested(type_) else "other"


def _size(type_: pa.DataType) -> int:
    return type_.list_size if pa.types.is_fixed_size_list(type_) else 0
