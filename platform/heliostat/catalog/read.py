"""Read row groups of a source: only the columns asked for, only the rows that a filter keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.catalog import arrow, delimited, json_lines, parquet
from heliostat.catalog.catalog import RowGroup
from heliostat.catalog.filter import filter_expression, filter_names
from heliostat.catalog.formats import ARROW, DELIMITED, JSON_LINES
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
    groups: Sequence[RowGroup], names: Sequence[str] | None, filter_text: str | None = None
) -> Iterator[Piece]:
    """The rows of `groups`, in order; `names` None reads every column.

    Raises:
        DataError: a page is damaged, or a file is not the one that was listed.
    """
    for location, run in groupby(groups, lambda group: group.location):
        try:
            yield from _read_file(list(run), names, filter_text)
        except FileNotFoundError:
            raise DataError(Problem(location, "the file has gone since it was listed")) from None
        except (pa.ArrowException, OSError, IndexError, KeyError) as error:
            raise DataError(Problem(location, f"is damaged: {error}")) from error


def _read_file(
    groups: Sequence[RowGroup], names: Sequence[str] | None, filter_text: str | None
) -> Iterator[Piece]:
    constants = {name for name, _, _ in groups[0].constants}
    needed = None if names is None else set(names) | set(filter_names(filter_text or "true"))
    stored = None if needed is None else sorted(needed - constants)
    by_index = {group.index: group for group in groups}
    read = dict.fromkeys(by_index, 0)
    for index, table in _tables(groups, stored, filter_text):
        group = by_index[index]
        first = group.first_row + read[index]
        read[index] += table.num_rows
        yield _piece(group, table, first, names, filter_text)
    skippable = filter_text is not None and groups[0].format == "parquet"
    for index, count in read.items():
        if count == 0 and skippable:  # its statistics rule out the filter
            yield _nothing(by_index[index])
        elif count != by_index[index].num_rows:
            place = f"{groups[0].location}, row group {index}"
            message = f"has {count} rows, {by_index[index].num_rows} when it was listed"
            raise DataError(Problem(place, message))


def _tables(
    groups: Sequence[RowGroup], names: Sequence[str] | None, filter_text: str | None
) -> Iterator[tuple[int, pa.Table]]:
    location, indices = groups[0].location, [group.index for group in groups]
    if groups[0].format == DELIMITED:
        layout = groups[0].layout
        yield from ((0, table) for table in delimited.read_tables(location, names, layout))
    elif groups[0].format == JSON_LINES:
        yield from ((0, table) for table in json_lines.read_tables(location, names))
    elif groups[0].format == ARROW:
        yield from arrow.read_groups(location, indices, names)
    else:
        keep = None
        if filter_text is not None and not filter_names(filter_text) & {
            name for name, _, _ in groups[0].constants
        }:
            keep = partial(filter_expression, filter_text)
        yield from parquet.read_groups(location, indices, names, keep)


def _piece(
    group: RowGroup, table: pa.Table, first: int, names: Sequence[str] | None, text: str | None
) -> Piece:
    num_read = table.num_rows
    for name, type_, value in group.constants:
        if name not in table.column_names:
            plain = pa.string() if isinstance(value, str) else None
            constant = pa.array([value] * num_read, plain).cast(pa.type_for_alias(type_))
            table = table.append_column(name, constant)
    rows = np.arange(first, first + num_read)
    if text is not None:
        table = table.append_column(ROW, pa.array(rows))
        table = table.filter(filter_expression(text, table.schema))
        rows = table[ROW].to_numpy()
        table = table.drop_columns([ROW])
    table = table if names is None else table.select(list(names))
    return Piece(group.path, group.index, table, rows, num_read)


def _nothing(group: RowGroup) -> Piece:
    return Piece(group.path, group.index, pa.table({}), np.empty(0, np.int64), group.num_rows)
