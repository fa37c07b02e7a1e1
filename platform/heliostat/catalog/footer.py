"""One Parquet footer: columns and row groups, without touching a page."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.errors import DataError, Problem

ColumnKind = Literal["number", "boolean", "category", "time", "nested", "other"]
MAGIC = b"PAR1"
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Column:
    """A column's name, its Arrow type in words, and what heliostat takes it for."""

    name: str
    type: str
    kind: ColumnKind


@dataclass(frozen=True)
class Footer:
    """The columns, the rows of each row group, and a hash of the footer's bytes."""

    columns: tuple[Column, ...]
    group_rows: tuple[int, ...]
    digest: str


def read_footer(location: str) -> Footer:
    """Read the footer of the file at `location`.

    Raises:
        DataError: the file is not Parquet, is cut short, or its footer is damaged.
    """
    try:
        with open(location, "rb") as file:
            raw = _raw_footer(file, location)
    except OSError as error:
        raise DataError(Problem(location, f"cannot be read: {error.strerror}")) from error
    try:
        metadata = pq.read_metadata(pa.BufferReader(raw))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise DataError(Problem(location, f"has a damaged Parquet footer: {error}")) from error
    columns = tuple(Column(field.name, str(field.type), kind_of(field.type)) for field in schema)
    rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return Footer(columns, rows, hashlib.sha256(raw).hexdigest()[:16])


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
    return "nested" if pa.types.is_nested(type_) else "other"


def _raw_footer(file: BinaryIO, location: str) -> bytes:
    """The footer's own bytes, its length and the closing magic: all a reader needs."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - TAIL_BYTES)
    file.seek(start)
    tail: bytes = file.read()
    if size < 12 or tail[-4:] != MAGIC:
        file.seek(0)
        cut = file.read(4) == MAGIC
        what = (
            "is a Parquet file cut short: its footer is missing" if cut else "is not a Parquet file"
        )
        raise DataError(Problem(location, what))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - 4:
        raise DataError(Problem(location, "has a damaged Parquet footer: its length is impossible"))
    if length > len(tail):
        file.seek(size - length)
        tail = file.read()
    return MAGIC + tail[-length:]
