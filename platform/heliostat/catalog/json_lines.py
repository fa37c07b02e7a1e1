"""JSON lines. They have no footer, so that counting their rows reads them once. All of a file
decides its types, as all files of a data set do.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import json, types

from heliostat.catalog.columns import Footer
from heliostat.catalog.places import open_file
from heliostat.catalog.widening import common_types, is_text
from heliostat.errors import DataError, Problem

BLOCK_BYTES = 1 << 22


def read_footer(location: str) -> Footer:
    """The columns of the file, and its rows as one group.

    Raises:
        DataError: the file is no table.
    """
    found: dict[str, set[pa.DataType]] = {}
    rows = 0
    with _damage(location), open_file(location) as stream:
        for block in _blocks(stream):
            table = _parsed(block, None)
            rows += table.num_rows
            for name, type_ in zip(table.schema.names, table.schema.types, strict=True):
                found.setdefault(name, set()).add(type_)
        schema = pa.schema([(name, _type(name, seen)) for name, seen in found.items()])
    return Footer(schema, (rows,), hashlib.sha256(str(schema).encode()).hexdigest()[:16])


def read_tables(location: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The columns of `schema` that the file has, a block of rows at a time, in its types where
    JSON can be read as them, and else in such as can be cast to them.
    """
    wanted = pa.schema([(field.name, _readable(field.type)) for field in schema])
    with _damage(location), open_file(location) as stream:
        for block in _blocks(stream):
            yield _parsed(block, wanted)


def _type(name: str, seen: set[pa.DataType]) -> pa.DataType:
    if common := common_types(seen):
        return common[0]
    if all(is_text(t) or types.is_timestamp(t) for t in seen - {pa.null()}):
        return pa.string()  # which may look like a time
    words = " and ".join(sorted(map(str, seen)))
    raise pa.ArrowInvalid(f"column `{name}` changes its type: {words}")


def _readable(type_: pa.DataType) -> pa.DataType:
    if types.is_dictionary(type_):
        return _readable(type_.value_type)
    if types.is_fixed_size_list(type_):
        return pa.list_(type_.value_type)
    return pa.string() if types.is_date(type_) else type_


def _blocks(stream: pa.NativeFile) -> Iterator[bytes]:
    """Whole lines, about 4 MiB at a time."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end == 0:
            rest += block
            continue
        yield rest + block[:end]
        rest = block[end:]
    if rest.strip():
        yield rest


def _parsed(block: bytes, known: pa.Schema | None) -> pa.Table:
    if not block.strip():
        return pa.table({})
    return json.read_json(
        io.BytesIO(block),
        json.ReadOptions(block_size=len(block) + 1, use_threads=False),
        json.ParseOptions(
            explicit_schema=known,
            unexpected_field_behavior="infer" if known is None else "ignore",
        ),
    )


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
            raise DataError(Problem(self._location, f"is damaged: {error}")) from error
