"""Read row groups of a source in its one schema: only the columns asked for, only the rows that a
filter keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog import arrow, delimited, json_lines, parquet
from heliostat.catalog.casts import cast_table, check_values, checkable
from heliostat.catalog.catalog import RowGroup
from heliostat.catalog.filter import filter_expression, filter_names
from heliostat.catalog.formats import ARROW, DELIMITED, JSON_LINES, PARQUET
from heliostat.errors import DataError, Problem

ROW = "heliostat:row"


@dataclass(frozen=True)
class Piece:
    """Rows of the row group `group` of a file. `rows` are their numbers within the file;
    `num_read` counts those that a filter left out too.
    """

    path: str
    group: int
    table: pa.Table
    rows: npt.NDArray[np.int64]
    num_read: int


def read_groups(
    groups: Sequence[RowGroup],
    schema: pa.Schema,
    names: Sequence[str] | None,
    filter_text: str | None = None,
    checked: Sequence[str] | None = None,
) -> Iterator[Piece]:
    """The rows of `groups`, in order, cast to `schema`, the catalog's; `names` None reads every
    column of it. The values of the columns `checked` (None: `names`) are looked at: texts that
    are not UTF-8 and times that cannot be are refused.

    Raises:
        DataError: a page is damaged, a value is not what it must be, or a file is not the one
            that was listed.
    """
    looked_at = checkable(schema, checked if checked is not None else names or ())
    for location, run in groupby(groups, lambda group: group.location):
        try:
            for piece in _read_file(list(run), schema, names, filter_text):
                if looked_at and len(piece.rows):
                    check_values(piece.table.select(looked_at), location)
                yield piece
        except FileNotFoundError:
            raise DataError(Problem(location, "the file has gone since it was listed")) from None
        except (pa.ArrowException, OSError, IndexError, KeyError) as error:
            raise DataError(Problem(location, f"is damaged: {error}")) from error


def _read_file(
    groups: Sequence[RowGroup],
    schema: pa.Schema,
    names: Sequence[str] | None,
    filter_text: str | None,
) -> Iterator[Piece]:
    wanted = schema if names is None else pa.schema([schema.field(name) for name in names])
    needed = _with_fields(wanted, schema, filter_names(filter_text or "true"))
    by_index = {group.index: group for group in groups}
    read = dict.fromkeys(by_index, 0)
    for index, table in _tables(groups, needed, filter_text):
        group = by_index[index]
        first = group.first_row + read[index]
        read[index] += table.num_rows
        table = cast_table(_with_constants(group, table), needed, group.location)
        yield _piece(group, table, first, wanted.names, filter_text)
    skippable = filter_text is not None and groups[0].format == PARQUET
    for index, count in read.items():
        if count == 0 and skippable:  # its statistics rule out the filter
            yield _nothing(by_index[index])
        elif count != by_index[index].num_rows:
            place = f"{groups[0].location}, row group {index}"
            message = f"has {count} rows, {by_index[index].num_rows} when it was listed"
            raise DataError(Problem(place, message))


def _with_fields(wanted: pa.Schema, whole: pa.Schema, names: set[str]) -> pa.Schema:
    for name in sorted(names - set(wanted.names)):
        wanted = wanted.append(whole.field(name))
    return wanted


def _tables(
    groups: Sequence[RowGroup], needed: pa.Schema, filter_text: str | None
) -> Iterator[tuple[int, pa.Table]]:
    location, indices = groups[0].location, [group.index for group in groups]
    constants = {name for name, _, _ in groups[0].constants}
    stored = pa.schema([field for field in needed if field.name not in constants])
    if groups[0].format == DELIMITED:
        layout = groups[0].layout
        yield from ((0, t) for t in delimited.read_tables(location, stored.names, layout))
    elif groups[0].format == JSON_LINES:
        yield from ((0, table) for table in json_lines.read_tables(location, stored))
    elif groups[0].format == ARROW:
        yield from arrow.read_groups(location, indices, stored.names)
    else:
        keep = partial(_prunes, filter_text, needed)
        yield from parquet.read_groups(location, indices, stored.names, keep)


def _prunes(text: str | None, needed: pa.Schema, own: pa.Schema) -> pc.Expression | None:
    """The filter, if a file's statistics are in the types that it compares."""
    if text is None:
        return None
    if any(needed.field(name) not in _nullable(own, name) for name in filter_names(text)):
        return None
    return filter_expression(text, needed)


def _nullable(schema: pa.Schema, name: str) -> list[pa.Field]:
    return [schema.field(i).with_nullable(True) for i in schema.get_all_field_indices(name)]


def _with_constants(group: RowGroup, table: pa.Table) -> pa.Table:
    for name, type_, value in group.constants:
        plain = pa.string() if isinstance(value, str) else None
        constant = pa.array([value] * table.num_rows, plain).cast(pa.type_for_alias(type_))
        table = table.append_column(name, constant)
    return table


def _piece(
    group: RowGroup, table: pa.Table, first: int, names: Sequence[str], text: str | None
) -> Piece:
    num_read = table.num_rows
    rows = np.arange(first, first + num_read)
    if text is not None:
        table = table.append_column(ROW, pa.array(rows))
        table = table.filter(filter_expression(text, table.schema))
        rows = table[ROW].to_numpy()
    return Piece(group.path, group.index, table.select(list(names)), rows, num_read)


def _nothing(group: RowGroup) -> Piece:
    return Piece(group.path, group.index, pa.table({}), np.empty(0, np.int64), group.num_rows)
