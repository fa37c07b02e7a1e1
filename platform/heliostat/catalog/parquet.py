"""Parquet: the footer without touching a page, and row groups by number.

The old 96-bit times are read as microseconds: as nanoseconds, which is Arrow's own choice, the
year 9999 wraps to one long past.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heliostat.catalog.columns import Footer, index_columns
from heliostat.catalog.places import open_file, place_of
from heliostat.errors import DataError, Problem

MAGIC = b"PAR1"
TAIL_BYTES = 1 << 16
ROWS_AT_ONCE = 65_536
STATISTICS_READ = 1_000
INT96, INT96_UNIT = "INT96", "us"


def read_footer(location: str) -> Footer:
    """Read the footer of the file at `location`.

    Raises:
        DataError: the file is not Parquet, is cut short, or its footer is damaged.
    """
    try:
        with open_file(location) as file:
            raw = _raw_footer(file, location)
    except OSError as error:
        raise DataError(Problem(location, f"cannot be read: {error}")) from error
    try:
        metadata = pq.read_metadata(pa.BufferReader(raw))
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise DataError(Problem(location, f"has a damaged Parquet footer: {error}")) from error
    rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if INT96 in {metadata.schema.column(j).physical_type for j in range(metadata.num_columns)}:
        with _opened(pa.BufferReader(raw)) as file:
            schema = file.schema_arrow
        raw += INT96_UNIT.encode()  # what was read in another unit is other data
    digest = hashlib.sha256(raw).hexdigest()[:16]
    largest = tuple(_largest(metadata, schema))
    return Footer(schema, rows, digest, largest, index_columns(schema))


def _largest(metadata: pq.FileMetaData, schema: pa.Schema) -> Iterator[tuple[str, int]]:
    """From the statistics of a few row groups: enough to warn, never slow."""
    integers = {field.name for field in schema if pa.types.is_integer(field.type)}
    leaves = {metadata.schema.column(j).path: j for j in range(metadata.num_columns)}
    step = max(1, metadata.num_row_groups * len(integers) // STATISTICS_READ)
    groups = [metadata.row_group(i) for i in range(0, metadata.num_row_groups, step)]
    for name in sorted(integers)[:STATISTICS_READ]:
        found = [group.column(leaves[name]).statistics for group in groups]
        bounds = [s for s in found if s is not None and s.has_min_max]
        if bounds:
            yield name, max(max(abs(s.min), abs(s.max)) for s in bounds)


def read_column(location: str, name: str) -> Iterator[pa.ChunkedArray]:
    """The values of one column, a row group at a time."""
    with open_file(location) as stream, _opened(stream) as file:
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, columns=[name], use_threads=False)[name]


def integer_bounds(location: str, name: str) -> tuple[int, int] | None:
    """The least and the largest value of a column, if every row group's statistics tell."""
    with open_file(location) as stream, _opened(stream) as file:
        metadata = file.metadata
        paths = [metadata.schema.column(j).path for j in range(metadata.num_columns)]
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        found = [group.column(paths.index(name)).statistics for group in groups if group.num_rows]
    if not all(s is not None and s.has_min_max for s in found):
        return None
    return min((s.min for s in found), default=0), max((s.max for s in found), default=0)


def read_groups(
    location: str,
    indices: Sequence[int],
    names: Sequence[str],
    keep: Callable[[pa.Schema], pc.Expression | None],
) -> Iterator[tuple[int, pa.Table]]:
    """(row group, its table) for each of `indices`, in order, with those of `names` that the file
    has; groups whose statistics rule out `keep(schema of the file)` are left out unread. Many
    small groups are read at once.
    """
    with open_file(location) as stream, _opened(stream) as file:
        possible = keep(file.schema_arrow)
        if possible is not None:
            indices = _possible(location, indices, possible)
        rows = [file.metadata.row_group(index).num_rows for index in indices]
        for start, stop in _runs(rows):
            run = list(indices[start:stop])
            table = _read(file, location, run, names)
            at = 0
            for index, count in zip(run, rows[start:stop], strict=True):
                yield index, table.slice(at, count)
                at += count


def writable(schema: pa.Schema) -> pa.Schema:
    """The columns that a Parquet file can hold."""
    if _is_writable(schema):
        return schema
    return pa.schema([field for field in schema if _is_writable(pa.schema([field]))])


def _is_writable(schema: pa.Schema) -> bool:
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except pa.ArrowException:
        return False
    return True


def _opened(stream: pa.NativeFile) -> pq.ParquetFile:
    return pq.ParquetFile(stream, coerce_int96_timestamp_unit=INT96_UNIT)


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of row groups with about `ROWS_AT_ONCE` rows."""
    start = total = 0
    for i, count in enumerate(rows):
        total += count
        if total >= ROWS_AT_ONCE or i + 1 == len(rows):
            yield start, i + 1
            start, total = i + 1, 0


def _read(file: pq.ParquetFile, location: str, run: list[int], names: Sequence[str]) -> pa.Table:
    try:
        return file.read_row_groups(run, columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if len(run) == 1:
            place = f"{location}, row group {run[0]}"
            raise DataError(Problem(place, f"is damaged: {error}")) from error
    # One by one, to name the one that is damaged.
    return pa.concat_tables([_read(file, location, [index], names) for index in run])


def _possible(location: str, indices: Sequence[int], keep: pc.Expression) -> Sequence[int]:
    import pyarrow.dataset as ds  # loads pandas, which plans have no use for

    place = place_of(location)
    options = ds.ParquetReadOptions(coerce_int96_timestamp_unit=INT96_UNIT)
    fragment = ds.ParquetFileFormat(read_options=options).make_fragment(
        place.path, place.filesystem, row_groups=list(indices)
    )
    possible = {group.id for part in fragment.split_by_row_group(keep) for group in part.row_groups}
    return [index for index in indices if index in possible]


def _raw_footer(file: Any, location: str) -> bytes:
    """The footer's own bytes, its length and the closing magic: all a reader needs."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    start = max(0, size - TAIL_BYTES)
    file.seek(start)
    tail: bytes = file.read()
    if size < 12 or tail[-4:] != MAGIC:
        file.seek(0)
        cut = file.read(4) == MAGIC
        what = (
            "is a Parquet file cut short: its footer is missing" if cut else "is not a Parquet file"
        )
        hint = "" if cut else "delimited text is read from .csv and .tsv, JSON lines from .jsonl"
        raise DataError(Problem(location, what, hint))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - 4:
        raise DataError(Problem(location, "has a damaged Parquet footer: its length is impossible"))
    if length > len(tail):
        file.seek(size - length)
        tail = file.read()
    return MAGIC + tail[-length:]
