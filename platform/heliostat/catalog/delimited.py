"""Delimited text (CSV, TSV). It has no footer, so that its rows are counted and its columns' types
found by reading it once; what `data.read` says wrongly of it is told with the right setting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyarrow import csv

from heliostat.catalog.columns import Footer, leading_index
from heliostat.catalog.dialect import Dialect, encoding_problem, look
from heliostat.catalog.inference import TYPES, ColumnTypes, cleaned, typed
from heliostat.catalog.places import open_file
from heliostat.errors import DataError, Problem
from heliostat.spec.read import ReadSpec

BLOCK_BYTES = 1 << 22
READER = 2  # part of a file's digest: another number where the same text would mean other values


def read_footer(location: str, read: ReadSpec) -> Footer:
    """The columns of the file, and its rows as one group.

    Raises:
        SettingError: the file is written in another way than `read` says.
        DataError: the file is no table.
    """
    with _damage(location, read), open_file(location) as stream:
        dialect = look(stream, location, read)
        keys = [str(i) for i in range(len(dialect.names))]
        found, rows = ColumnTypes(keys, read), 0
        for batch in _batches(stream, dialect, keys):
            rows += batch.num_rows
            for key in keys:
                found.learn(key, batch.column(key))
    schema = pa.schema(
        [(name, found.types[key]) for key, name in zip(keys, dialect.names, strict=True)]
    )
    doubts = tuple(replace(d, column=dialect.names[int(d.column)]) for d in found.doubts)
    text = json.dumps([READER, str(schema), read.model_dump(mode="json", exclude_defaults=True)])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Footer(schema, (rows,), digest, index=leading_index(schema), doubts=doubts)


def layout_of(schema: pa.Schema, read: ReadSpec) -> str:
    """All that a reader of the file's rows needs, as JSON."""
    types = {field.name: str(field.type) for field in schema}
    return json.dumps([read.model_dump(mode="json", exclude_defaults=True), types])


def read_tables(location: str, names: Sequence[str], layout: str) -> Iterator[pa.Table]:
    """Those of the columns `names` that the file has, a block of rows at a time, in the types of
    `layout`.

    Raises:
        DataError: the file is not what it was when it was listed.
    """
    settings, types = json.loads(layout)
    read = ReadSpec.model_validate(settings)
    with _damage(location, read), open_file(location) as stream:
        dialect = look(stream, location, read)
        known = set(dialect.names)
        wanted = [name for name in names if name in known]
        keys = [str(dialect.names.index(name)) for name in wanted]
        schema = pa.schema([(name, TYPES[types[name]]) for name in wanted])
        if dialect.is_empty:
            yield schema.empty_table()
        for batch in _batches(stream, dialect, keys):
            columns = [
                _column(location, field, batch.column(key), read)
                for field, key in zip(schema, keys, strict=True)
            ]
            yield pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=schema)])


def _batches(stream: pa.NativeFile, dialect: Dialect, keys: Sequence[str]) -> Iterator[Any]:
    """The raw texts of some columns, which are numbered."""
    if dialect.is_empty:
        return
    stream.seek(0)
    every = [str(i) for i in range(len(dialect.names))]
    yield from csv.open_csv(
        stream,
        csv.ReadOptions(
            block_size=BLOCK_BYTES, use_threads=False, encoding=dialect.encoding,
            column_names=every, skip_rows_after_names=dialect.rows_before,
        ),
        csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
        csv.ConvertOptions(
            column_types=dict.fromkeys(every, pa.string()), strings_can_be_null=False,
            include_columns=list(keys),
        ),
    )  # fmt: skip


def _column(location: str, field: pa.Field, raw: pa.Array, read: ReadSpec) -> pa.Array:
    try:
        return typed(cleaned(raw, read), field.type, read)
    except pa.ArrowException as error:
        what = f"column `{field.name}` is no longer {field.type}, as when it was listed: {error}"
        raise DataError(Problem(location, what)) from error


class _damage:
    """Turns pyarrow's errors into ours, with the file's name and the likeliest setting."""

    def __init__(self, location: str, read: ReadSpec) -> None:
        self._location, self._read = location, read

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            raise encoding_problem(self._location, self._read) from error
        if isinstance(error, (pa.ArrowException, OSError)):
            what = f"is no table: {error}"
            hint = (
                "a value that holds the delimiter needs quotes; `data.read` says how it is written"
            )
            raise DataError(Problem(self._location, what, hint)) from error
