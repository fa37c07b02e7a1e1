"""Exact casts: every value as another type, unchanged; or a refusal that names the value."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from heliostat.errors import DataError, Problem

FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31, from 1970-01-01
PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
DAYS_PER_YEAR = 365.2425


def cast_table(table: pa.Table, schema: pa.Schema, place: str) -> pa.Table:
    """`table` with the columns of `schema` and no others, in its order and types; a column that
    the table lacks is null.

    Raises:
        DataError: a value would change; `place`, which is the file, and the column are named.
    """
    if table.schema.equals(schema):
        return table
    columns = [_column(table, field, place) for field in schema]
    fitted = pa.schema(list(schema), metadata=table.schema.metadata)
    return pa.Table.from_arrays(columns, schema=fitted)


def cast_exactly(values: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """`values` as `type_`.

    Raises:
        ArrowInvalid: a value would change.
    """
    if values.type == type_:
        return values
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    cast = values.cast(type_)
    if types.is_decimal(values.type) and types.is_floating(type_):  # Arrow looks at all others
        back = cast.cast(values.type)
        if not pc.all(pc.fill_null(pc.equal(back, values), True)).as_py():
            raise pa.ArrowInvalid(f"a value has more digits than {type_} keeps")
    return cast


def checkable(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Those of some columns whose values `check_values` looks at."""
    return [
        name for name in names if _is_text(own := _own(schema.field(name).type)) or _is_time(own)
    ]


def check_values(table: pa.Table, place: str) -> None:
    """Raise DataError where a text is not UTF-8, or a time lies outside the years 1 to 9999; it
    names `place`, the column and the value.
    """
    for name, values in zip(table.column_names, table.columns, strict=True):
        own = _own(values.type)
        if _is_text(own):
            _check_text(values, name, place)
        elif _is_time(own):
            _check_time(values.cast(own), name, place)


def _own(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if types.is_dictionary(type_) else type_


def _is_text(type_: pa.DataType) -> bool:
    return bool(types.is_string(type_) or types.is_large_string(type_))


def _is_time(type_: pa.DataType) -> bool:
    """Whether a value may lie in a year that nobody means."""
    return bool((types.is_timestamp(type_) and type_.unit != "ns") or types.is_date(type_))


def _column(table: pa.Table, field: pa.Field, place: str) -> pa.ChunkedArray:
    found = table.schema.get_field_index(field.name)
    if found < 0:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    try:
        return cast_exactly(table.column(found), field.type)
    except pa.ArrowException as error:
        message = f"column `{field.name}` ({table.column(found).type}) is no {field.type}: {error}"
        raise DataError(Problem(place, message, "did it change? Run again")) from None


def _check_text(values: pa.ChunkedArray, name: str, place: str) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        example = ""
        for chunk in values.chunks:
            example = example or _first_bad(chunk)
        message = f"column `{name}` holds text that is not UTF-8{example}"
        raise DataError(Problem(place, message, "write it again as UTF-8, or as binary")) from None


def _first_bad(chunk: pa.Array) -> str:
    if types.is_dictionary(chunk.type):
        chunk = chunk.dictionary
    large = types.is_large_string(chunk.type)
    for value in chunk.view(pa.large_binary() if large else pa.binary()):
        raw = value.as_py() or b""
        try:
            raw.decode()
        except UnicodeDecodeError:
            return f", such as {raw[:40]!r}"
    return ""


def _check_time(values: pa.ChunkedArray, name: str, place: str) -> None:
    if types.is_date(values.type):
        values = values.cast(pa.date32()).cast(pa.int32())
        per_day = 1
    else:
        values, per_day = values.cast(pa.int64()), PER_DAY[values.type.unit]
    bounds = pc.min_max(values)
    for value in (bounds["min"].as_py(), bounds["max"].as_py()):
        if value is not None and not FIRST_DAY <= value // per_day <= LAST_DAY:
            year = 1970 + round(value / per_day / DAYS_PER_YEAR)
            message = f"column `{name}` holds a time of about the year {year:,}"
            hint = "times lie in the years 1 to 9999: mend it, or write null"
            raise DataError(Problem(place, message, hint))
