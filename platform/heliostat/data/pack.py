"""Raw values of a table in the forms that heliostat keeps: the same code for preparation and
for `predict`.

A packed batch holds all numbers in one float32 matrix (NaN where missing), each category as
Arrow dictionary codes (null is a value of the dictionary, so codes have no holes), exact
numbers as float64 and times as microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.plan.columns import PackedColumn

NUMBERS, ROWS = "numbers", "rows"
MISSING_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Category:
    """Codes of a column, [rows] int32, and what each code stands for (None: missing)."""

    codes: npt.NDArray[np.int32]
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Packed:
    """A packed batch: `numbers` is [rows, len(number_names)] float32. `rows` are the rows'
    numbers in their files, where a filter left gaps.
    """

    num_rows: int
    number_names: tuple[str, ...]
    numbers: npt.NDArray[np.float32]
    categories: Mapping[str, Category]
    exact: Mapping[str, npt.NDArray[np.float64]]
    times: Mapping[str, npt.NDArray[np.int64]]
    rows: npt.NDArray[np.int64] | None = None


def pack_table(
    table: pa.Table,
    columns: Sequence[PackedColumn],
    rows: npt.NDArray[np.int64] | None = None,
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """`table` as one packed record batch, and how many infinite numbers became missing."""
    names = [column.name for column in columns if column.form == "number"]
    matrix = np.empty((table.num_rows, len(names)), np.float32)
    infinite: dict[str, int] = {}
    for i, name in enumerate(names):
        matrix[:, i] = _as_float(table[name], pa.float32())
        _drop_infinite(matrix[:, i], name, infinite)
    flat = pa.array(matrix.reshape(-1))
    arrays: dict[str, pa.Array] = {}
    if names:
        arrays[NUMBERS] = pa.FixedSizeListArray.from_arrays(flat, len(names))
    for column in columns:
        if column.form == "exact":
            values = _as_float(table[column.name], pa.float64()).copy()
            _drop_infinite(values, column.name, infinite)
            arrays[f"exact:{column.name}"] = pa.array(values)
        elif column.form == "category":
            arrays[f"category:{column.name}"] = _as_codes(table[column.name])
        elif column.form == "time":
            arrays[f"time:{column.name}"] = _as_time(table[column.name])
    if rows is not None:
        arrays[ROWS] = pa.array(rows)
    metadata = {NUMBERS: "\x1f".join(names)}
    fields = [pa.field(name, array.type) for name, array in arrays.items()]
    schema = pa.schema(fields, metadata=metadata)
    return pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema), infinite


def unpack(batch: pa.RecordBatch) -> Packed:
    """Views of a packed record batch; nothing is copied."""
    names = tuple(filter(None, batch.schema.metadata[NUMBERS.encode()].decode().split("\x1f")))
    categories, exact, times, rows = {}, {}, {}, None
    numbers = np.empty((batch.num_rows, 0), np.float32)
    for field, array in zip(batch.schema, batch.columns, strict=True):
        kind, _, name = field.name.partition(":")
        if field.name == NUMBERS:
            numbers = array.flatten().to_numpy(zero_copy_only=True).reshape(-1, len(names))
        elif field.name == ROWS:
            rows = array.to_numpy(zero_copy_only=True)
        elif kind == "category":
            codes = array.indices.to_numpy(zero_copy_only=True)
            categories[name] = Category(codes, tuple(array.dictionary.to_pylist()))
        elif kind == "exact":
            exact[name] = array.to_numpy(zero_copy_only=True)
        else:
            times[name] = array.to_numpy(zero_copy_only=True)
    return Packed(batch.num_rows, names, numbers, categories, exact, times, rows)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The canonical text of a category's values; NaN is missing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column if column.type == pa.string() else column.cast(pa.string())


def _as_float(column: pa.ChunkedArray, type_: pa.DataType) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    column = column.cast(type_, safe=False)
    return pc.fill_null(column, float("nan")).to_numpy()


def _drop_infinite(values: npt.NDArray[Any], name: str, infinite: dict[str, int]) -> None:
    mask = np.isinf(values)
    if count := int(mask.sum()):
        values[mask] = np.nan
        infinite[name] = infinite.get(name, 0) + count


def _as_codes(column: pa.ChunkedArray) -> pa.DictionaryArray:
    encoded = as_text(column).combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded


def _as_time(column: pa.ChunkedArray) -> pa.Array:
    times = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
    numbers = pc.fill_null(times.cast(pa.int64()), int(MISSING_TIME)).combine_chunks()
    return numbers.combine_chunks() if isinstance(numbers, pa.ChunkedArray) else numbers
