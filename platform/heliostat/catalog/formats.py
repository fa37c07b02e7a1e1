"""Which reader a file's name asks for. What has no known suffix is taken for Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from heliostat.catalog import arrow, delimited, json_lines, parquet
from heliostat.catalog.columns import Footer
from heliostat.catalog.places import suffix_of
from heliostat.errors import DataError, Problem
from heliostat.spec.read import ReadSpec

PARQUET, ARROW, JSON_LINES, DELIMITED = "parquet", "arrow", "json lines", "delimited"
SUFFIXES = {
    ".csv": DELIMITED, ".tsv": DELIMITED, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES,
    ".arrow": ARROW, ".feather": ARROW, ".ipc": ARROW,
}  # fmt: skip
OTHERS = {".json": "JSON lines (.jsonl)", ".gz": "Parquet", ".zip": "Parquet", ".orc": "Parquet",
          ".avro": "Parquet", ".xlsx": "Parquet"}  # fmt: skip


def format_of(location: str) -> str:
    """The format of a file, by its name.

    Raises:
        DataError: a format that heliostat does not read.
    """
    suffix = suffix_of(location)
    if suffix in OTHERS:
        raise DataError(
            Problem(location, f"{suffix} files are not read", f"convert it to {OTHERS[suffix]}")
        )
    return SUFFIXES.get(suffix, PARQUET)


def read_footer(location: str, read: ReadSpec) -> Footer:
    """What the file tells about itself; `read` is for delimited text.

    Raises:
        DataError: the file is not what its name says, or is damaged.
    """
    kind = format_of(location)
    if kind == DELIMITED:
        return delimited.read_footer(location, read)
    readers = {
        PARQUET: parquet.read_footer, ARROW: arrow.read_footer, JSON_LINES: json_lines.read_footer,
    }  # fmt: skip
    return readers[kind](location)


def integer_bounds(location: str, name: str) -> tuple[int, int] | None:
    """The least and the largest value of a column, where the file itself tells."""
    return parquet.integer_bounds(location, name) if format_of(location) == PARQUET else None


def read_column(location: str, field: pa.Field, layout: str) -> Iterator[pa.ChunkedArray]:
    """The values of one column, in the file's own type; `layout` is for delimited text."""
    kind = format_of(location)
    if kind == PARQUET:
        yield from parquet.read_column(location, field.name)
    elif kind == ARROW:
        yield from arrow.read_column(location, field.name)
    elif kind == DELIMITED:
        for table in delimited.read_tables(location, [field.name], layout):
            yield table[field.name]
    else:
        for table in json_lines.read_tables(location, pa.schema([field])):
            yield table[field.name]
