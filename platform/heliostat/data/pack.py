"""Raw values of a table in the forms that heliostat keeps: the same code for preparation and
for `predict`.

A packed batch holds all numbers in one float32 matrix (NaN where missing), each category as
Arrow dictionary codes (null is a value of the dictionary, so codes have no holes), exact
numbers as float64, times as microseconds, vectors as float32 matrices, texts as hashed words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.data.text import as_text, text_words, token_ids
from heliostat.plan.inputs import TOKENS, PackedColumn

NUMBERS, ROWS = "numbers", "rows"
COLUMNS_AT_ONCE, ROWS_AT_ONCE = 32, 2_048
MISSING_TIME = np.iinfo(np.int64).min
# Infinite, or so large that sums of two, or squares of exact ones, would be.
TOO_LARGE = {np.dtype(np.float32): 2.0**126, np.dtype(np.float64): 2.0**500}


@dataclass(frozen=True)
class Category:
    """Codes of a column, [rows] int32, and what each code stands for (None: missing)."""

    codes: npt.NDArray[np.int32]
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Words:
    """Hashes of a text column's words, or ids of its tokens, row after row; row i's are
    [offsets[i], offsets[i+1]).
    """

    offsets: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint32]


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
    vectors: Mapping[str, npt.NDArray[np.float32]]
    texts: Mapping[str, Words]
    rows: npt.NDArray[np.int64] | None


def pack_table(
    table: pa.Table,
    columns: Sequence[PackedColumn],
    rows: npt.NDArray[np.int64] | None = None,
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """`table` as one packed record batch, and how many numbers were too large to be kept."""
    names = [column.name for column in columns if column.form == "number"]
    matrix = _matrix(table, names)
    lost: dict[str, int] = {}
    if _any_too_large(matrix):
        for i, name in enumerate(names):
            _drop_too_large(matrix[:, i], name, lost)
    flat = _arrow(matrix.reshape(-1))
    arrays: dict[str, pa.Array] = {}
    if names:
        arrays[NUMBERS] = pa.FixedSizeListArray.from_arrays(flat, len(names))
    for column in columns:
        if column.form == "exact":
            values = _as_float(table[column.name], pa.float64()).copy()
            _drop_too_large(values, column.name, lost)
            arrays[f"exact:{column.name}"] = _arrow(values)
        elif column.form == "category":
            arrays[f"category:{column.name}"] = _as_codes(table[column.name])
        elif column.form == "time":
            arrays[f"time:{column.name}"] = _as_time(table[column.name])
        elif column.form == "vector":
            arrays[f"vector:{column.name}"] = _as_vectors(table[column.name], column.name, lost)
        elif column.form == "text":
            arrays[f"text:{column.name}"] = text_words(table[column.name])
        elif column.form.startswith(TOKENS):
            arrays[f"text:{column.name}"] = token_ids(table[column.name], column.tokenizer)
    if rows is not None:
        arrays[ROWS] = _arrow(rows)
    metadata = {NUMBERS: "\x1f".join(names)}
    fields = [pa.field(name, array.type) for name, array in arrays.items()]
    schema = pa.schema(fields, metadata=metadata)
    return pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema), lost


def unpack(batch: pa.RecordBatch) -> Packed:
    """Views of a packed record batch; nothing is copied."""
    names = tuple(filter(None, batch.schema.metadata[NUMBERS.encode()].decode().split("\x1f")))
    categories, exact, times, vectors, texts, rows = {}, {}, {}, {}, {}, None
    numbers = np.empty((batch.num_rows, 0), np.float32)
    for field, array in zip(batch.schema, batch.columns, strict=True):
        kind, _, name = field.name.partition(":")
        if field.name == NUMBERS:
            numbers = _view(array.flatten()).reshape(-1, len(names))
        elif field.name == ROWS:
            rows = _view(array)
        elif kind == "category":
            codes = _view(array.indices)
            categories[name] = Category(codes, tuple(array.dictionary.to_pylist()))
        elif kind == "exact":
            exact[name] = _view(array)
        elif kind == "vector":
            flat = _view(array.flatten())
            vectors[name] = flat.reshape(-1, array.type.list_size)
        elif kind == "text":
            offsets = _view(array.offsets)
            texts[name] = Words(offsets, _view(array.values))
        else:
            times[name] = _view(array)
    return Packed(batch.num_rows, names, numbers, categories, exact, times, vectors, texts, rows)


def is_missing(packed: Packed, column: PackedColumn) -> npt.NDArray[np.bool_]:
    """Which rows lack a value of the column; of a vector, any."""
    if column.form == "category":
        category = packed.categories[column.name]
        return np.array([value is None for value in category.values], bool)[category.codes]
    if column.form == "time":
        return packed.times[column.name] == MISSING_TIME
    if column.form == "exact":
        return np.isnan(packed.exact[column.name])
    if column.form == "vector":
        return np.asarray(np.isnan(packed.vectors[column.name]).any(1))
    if column.form == "text" or column.form.startswith(TOKENS):
        return np.zeros(packed.num_rows, bool)  # no text has no words
    missing: npt.NDArray[np.bool_] = np.isnan(
        packed.numbers[:, packed.number_names.index(column.name)]
    )
    return missing


def _as_float(column: pa.ChunkedArray, type_: pa.DataType) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if column.type != type_:
        column = column.cast(type_, safe=False)
    if column.null_count:
        column = pc.fill_null(column, float("nan"))
    parts = [_view(chunk) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty(0, type_.to_pandas_dtype()), *parts])


def _matrix(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Columns side by side: a few of them at a time, and of those a stretch of rows, which stays
    in the cache until it is whole.
    """
    matrix = np.empty((table.num_rows, len(names)), np.float32)
    for first in range(0, len(names), COLUMNS_AT_ONCE):
        columns = [
            _as_float(table[name], pa.float32()) for name in names[first : first + COLUMNS_AT_ONCE]
        ]
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            for place, column in enumerate(columns, first):
                matrix[rows, place] = column[rows]
    return matrix


def _any_too_large(values: npt.NDArray[Any]) -> bool:
    """Whether any is, missing ones left aside."""
    most = TOO_LARGE[values.dtype]
    flat = values.reshape(-1)
    return flat.size > 0 and bool(np.fmax.reduce(flat) > most or np.fmin.reduce(flat) < -most)


def _are_too_large(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.abs(values) > TOO_LARGE[values.dtype]


def _drop_too_large(values: npt.NDArray[Any], name: str, lost: dict[str, int]) -> None:
    mask = _are_too_large(values)
    if count := int(mask.sum()):
        values[mask] = np.nan
        lost[name] = lost.get(name, 0) + count


def _view(array: pa.Array) -> npt.NDArray[Any]:
    """The numbers of an array without nulls, not copied. `to_numpy` would load pandas."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Numbers as an array, not copied. `pa.array` would load pandas."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _as_codes(column: pa.ChunkedArray) -> pa.DictionaryArray:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    encoded = array.dictionary_encode(null_encoding="encode")
    # Of each value one text, which is faster than one of each row.
    text = as_text(pa.chunked_array([encoded.dictionary])).combine_chunks()
    return pa.DictionaryArray.from_arrays(encoded.indices, text)


def _as_time(column: pa.ChunkedArray) -> pa.Array:
    times = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
    numbers = pc.fill_null(times.cast(pa.int64()), int(MISSING_TIME)).combine_chunks()
    return numbers.combine_chunks() if isinstance(numbers, pa.ChunkedArray) else numbers


def _as_vectors(column: pa.ChunkedArray, name: str, lost: dict[str, int]) -> pa.FixedSizeListArray:
    """Missing vectors, and missing or too large numbers in one, are NaN."""
    size = column.type.list_size
    matrix = np.full((len(column), size), np.nan, np.float32)
    array = column.combine_chunks()
    present = pc.is_valid(array).to_numpy(zero_copy_only=False)
    flat = pa.chunked_array([array.drop_null().flatten()])
    matrix[present] = _as_float(flat, pa.float32()).reshape(-1, size)
    _drop_too_large(matrix, name, lost)
    return pa.FixedSizeListArray.from_arrays(_arrow(matrix.reshape(-1)), size)
