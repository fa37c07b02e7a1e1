"""Values of any source as the type that a model learned from: exactly the same value, or refused.

Numbers that a model computes with are the same whatever their width. A category's text is that
of its learned type, so its values must be of that type before they are looked up: 1, 1.0 and
1.00 are one value, `001` is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.columns import kind_of
from heliostat.catalog.types import type_name, type_of
from heliostat.errors import DataError, Problem
from heliostat.plan.inputs import FITTING, TOKENS, PackedColumn

MOST_DIGITS = 76
_KINDS = {"exact": FITTING["number"]} | FITTING


def learned_target(form: str, learned: str | None, found: pa.DataType) -> pa.DataType | None:
    """The type to which a column of type `found` is cast for a model that packs it to `form` and
    learned it as `learned` (None: that is not known); None if its values cannot be the same.
    """
    if pa.types.is_dictionary(found):
        found = found.value_type
    known = None if learned is None else type_of(learned)
    if pa.types.is_null(found):
        return found if known is None else known
    kind = kind_of(found)
    if known is None:
        return found if kind in _KINDS[form.partition(":")[0]] else None
    wanted = kind_of(known)
    if wanted == "category":
        is_number = form in ("number", "exact") and kind == "number"  # learned from texts like 01
        return found if is_number else pa.string() if kind == wanted else None
    if wanted == "boolean":
        return pa.bool_() if kind == wanted or _is_plain_number(found) else None
    if wanted == "number":
        return _number(form, known, found) if kind in FITTING["number"] else None
    if wanted == "time":
        return _time(known, found) if kind == wanted else None
    return found if kind == wanted and found.list_size == known.list_size else None


def have_one_text(learned: str, found: str) -> bool:
    """Whether the same value of a category is the same text in both types."""
    one, other = type_of(learned), type_of(found)
    if one is None or other is None or kind_of(one) != kind_of(other):
        return False
    if pa.types.is_integer(one) or pa.types.is_decimal(one) or pa.types.is_floating(one):
        return learned_target("category", learned, other) == learned_target("category", found, one)
    return True


def as_learned(
    table: pa.Table, columns: Sequence[PackedColumn], types: Mapping[str, str], place: str
) -> pa.Table:
    """`table` with each of `columns` cast to its learned type.

    Raises:
        DataError: a value is not the same in the learned type; with the column, both types and
            the first such value.
    """
    for column in columns:
        index, values = table.column_names.index(column.name), table[column.name]
        wanted = learned_target(column.form, types.get(column.name), values.type)
        if wanted is None:
            raise DataError(type_problem(place, column, types, values))
        cast = _exactly(values, wanted)
        if not isinstance(cast, pa.ChunkedArray):
            learned = types.get(column.name)
            raise DataError(_value_problem(place, column.name, cast, values.type, learned))
        if cast is not values:
            table = table.set_column(index, column.name, cast)
    return table


def type_problem(
    place: str, column: PackedColumn, types: Mapping[str, str], values: pa.ChunkedArray
) -> Problem:
    """Why no value of a column's type is one of the learned type; `values` are some of them."""
    learned = types.get(column.name)
    if learned is None:
        kind = TOKENS if column.form.startswith(TOKENS) else column.form
        kind = "number" if kind == "exact" else kind
        return Problem(place, f"column `{column.name}` is {values.type}; the model needs a {kind}")
    present = values.drop_null()
    shown = f" (for example `{_shown(present[0].as_py())}`)" if len(present) else ""
    what = f"column `{column.name}` is {type_name(values.type)}{shown}"
    return Problem(place, f"{what}; the model learned it as {learned}", _remedy(learned))


def _value_problem(
    place: str, name: str, value: Any, found: pa.DataType, learned: str | None
) -> Problem:
    what = f"column `{name}` ({type_name(found)}) holds `{_shown(value)}`, which is no {learned}"
    return Problem(place, f"{what}, as which the model learned it", _remedy(learned))


def _remedy(learned: str | None) -> str:
    return f"give the column as {learned}, or train on data of this type"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_plain_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _number(form: str, learned: pa.DataType, found: pa.DataType) -> pa.DataType:
    """A number is itself in any type; as a category it needs the learned type's text, of which
    the width is no part.
    """
    if form != "category":
        return found
    if pa.types.is_integer(learned):
        return pa.uint64() if learned == pa.uint64() else pa.int64()
    return _wide(learned)


def _time(learned: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    """A moment is itself in any unit and zone; a wall clock's time is no moment."""
    if _zone(learned) != _zone(found):
        return None
    return pa.date32() if pa.types.is_date(learned) else found


def _zone(type_: pa.DataType) -> bool:
    return getattr(type_, "tz", None) is not None


def _exactly(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray | Any:
    """`values` in the type `wanted`; or the first value that is not the same there."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.type == wanted:
        return values
    if pa.types.is_null(values.type):
        return pa.chunked_array([pa.nulls(len(values), wanted)])
    if pa.types.is_boolean(values.type) and pa.types.is_decimal(wanted):
        values = values.cast(pa.int8())  # Arrow has no direct way
    if pa.types.is_floating(values.type):  # what is no number is missing
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    cast = _there_and_back(values, wanted)
    if cast is not None:
        return cast
    start, stop = 0, len(values)
    while stop - start > 1:  # the first half that fails has the first value that fails
        half = (start + stop) // 2
        if _there_and_back(values.slice(start, half - start), wanted) is None:
            stop = half
        else:
            start = half
    return values[start].as_py()


def _there_and_back(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray | None:
    """`values` in the type `wanted`, if each comes back from there unchanged."""
    try:
        cast = _cast(values, wanted)
        wide = _wide(values.type)  # what has fewer digits than all integers, Arrow casts none to
        same = pc.equal(_cast(cast, wide), values.cast(wide))
    except pa.ArrowInvalid:
        return None
    return cast if pc.all(pc.fill_null(same, True)).as_py() is not False else None


def _cast(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(values.type) and pa.types.is_floating(wanted):
        values = values.cast(pa.string())  # Arrow's own way may be one bit off
    # Arrow makes no float32 of integers above 2^24, not even of 2^40; what is lost shows later.
    is_rounded = pa.types.is_integer(values.type) and pa.types.is_floating(wanted)
    return values.cast(wanted, safe=not is_rounded)


def _wide(type_: pa.DataType) -> pa.DataType:
    return pa.decimal256(MOST_DIGITS, type_.scale) if pa.types.is_decimal(type_) else type_
