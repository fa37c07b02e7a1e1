"""JSON lines. They have no footer, so that counting their rows reads them once; types come from a
file's first block, and a value further down that does not fit is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import json

from heliostat.catalog.columns import Footer
from heliostat.catalog.places import open_file
from heliostat.errors import DataError, Problem

BLOCK_BYTES = 1 << 22


def read_footer(location: str) -> Footer:
    """The columns of the file, and its rows as one group.

    Raises:
        DataError: the file is no table.
    """
    with _damage(location), open_file(location) as stream:
        reader = _reader(stream)
        schema = reader.schema
        rows = sum(batch.num_rows for batch in reader)
    return Footer(schema, (rows,), hashlib.sha256(str(schema).encode()).hexdigest()[:16])


def read_tables(location: str, names: Sequence[str] | None) -> Iterator[pa.Table]:
    """The file's rows, a block at a time."""
    with _damage(location), open_file(location) as stream:
        for batch in _reader(stream):
            table = pa.Table.from_batches([batch])
            yield table if names is None else table.select(list(names))


def _reader(stream: pa.NativeFile) -> Any:
    return json.open_json(stream, json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False))


class _damage:
    """Turns pyarrow's errors into ours, with the file's name."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)):
            raise DataError(
                Problem(
                    self._location,
                    f"is damaged: {error}",
                    "its first 4 MiB decide the types; where they mislead, convert to Parquet",
                )
            ) from error
