"""Arrow IPC files, which Feather files are: record batches are their row groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from heliostat.catalog.columns import Footer, index_columns
from heliostat.catalog.places import open_file
from heliostat.errors import DataError, Problem


def read_footer(location: str) -> Footer:
    """The columns and the rows of each record batch.

    Raises:
        DataError: the file is no Arrow IPC file.
    """
    try:
        with open_file(location) as stream, pa.ipc.open_file(stream) as file:
            counts = (file.get_batch(i).num_rows for i in range(file.num_record_batches))
            rows, schema = tuple(counts), file.schema
    except (pa.ArrowException, OSError) as error:
        hint = "write it with `pyarrow.ipc.new_file`: streams and Feather V1 are not read"
        raise DataError(Problem(location, f"is no Arrow file: {error}", hint)) from error
    text = f"{schema}{rows}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Footer(schema, rows, digest, index=index_columns(schema))


def read_groups(
    location: str, indices: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[int, pa.Table]]:
    """(record batch, its table) for each of `indices`; of `names` those that the file has."""
    with open_file(location) as stream, pa.ipc.open_file(stream) as file:
        for index in indices:
            try:
                table = pa.Table.from_batches([file.get_batch(index)])
            except (pa.ArrowException, OSError) as error:
                place = f"{location}, record batch {index}"
                raise DataError(Problem(place, f"is damaged: {error}")) from error
            known = set(table.column_names)
            yield index, table.select([name for name in names if name in known])


def read_column(location: str, name: str) -> Iterator[pa.ChunkedArray]:
    """The values of one column, a record batch at a time."""
    with open_file(location) as stream, pa.ipc.open_file(stream) as file:
        for index in range(file.num_record_batches):
            yield pa.chunked_array([file.get_batch(index).column(name)])
