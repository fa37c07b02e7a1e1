"""The numbers that a packed batch holds for a model, before any transform: plain columns, exact
ones, parts of the calendar, places of vectors.

A block is what one gather gives: all plain columns together, and each other column alone. A
part names a number within its column: nothing for a plain one, `exact`, `time:hour`,
`vector:17`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.pack import MISSING_TIME, Packed
from heliostat.plan.inputs import InputColumn, PackedColumn

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
Gather = Callable[[Rows], Values]
DAY_MICROSECONDS = 86_400_000_000


def parts_of(column: InputColumn) -> list[str]:
    """The numbers of an input, in order."""
    if column.kind == "time":
        return [f"time:{part}" for part in column.parts]
    if column.kind == "vector":
        return [f"vector:{place}" for place in range(column.size)]
    return ["exact" if column.exact else ""]


def gather_of(packed: Packed, names: Sequence[str], parts: Sequence[str]) -> Gather:
    """A function from rows to [rows, parts] of one block. What it returns is the caller's to
    change.
    """
    kind = parts[0].partition(":")[0]
    details = [part.partition(":")[2] for part in parts]
    if kind == "exact":
        return lambda rows: _taken(packed.exact[names[0]][:, None], rows)
    if kind == "time":
        return lambda rows: calendar(_taken(packed.times[names[0]], rows), details)
    if kind == "vector":
        return _columns(packed.vectors[names[0]], [int(place) for place in details])
    index = {name: i for i, name in enumerate(packed.number_names)}
    return _columns(packed.numbers, [index[name] for name in names])


def raw_column(packed: Packed, column: PackedColumn, rows: Rows) -> Values:
    """A column as a class of the user's own sees it: see `CustomFeature`."""
    name, form = column.name, column.form
    if form == "category":
        category = packed.categories[name]
        return np.array(category.values, object)[category.codes[rows]]
    if form == "time":  # a missing time is NumPy's own "not a time"
        return packed.times[name][rows].view("datetime64[us]")
    return (packed.vectors if form == "vector" else packed.exact)[name][rows]


def _columns(matrix: Values, places: Sequence[int]) -> Gather:
    everything = list(places) == list(range(matrix.shape[1]))

    def gather(rows: Rows) -> Values:
        taken = _taken(matrix, rows)
        return taken if everything else taken[:, places]

    return gather


def _taken(values: Values, rows: Rows) -> Values:
    return np.take(values, rows, axis=0)


def calendar(times: npt.NDArray[np.int64], parts: Sequence[str]) -> npt.NDArray[np.float64]:
    """[rows, parts] of microseconds since 1970, in UTC; NaN where the time is missing."""
    moments = times.view("datetime64[us]")
    days = moments.astype("datetime64[D]")
    months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
    into_day = times - days.astype(np.int64) * DAY_MICROSECONDS
    columns = {
        "year": years.astype(np.int64) + 1970,
        "month": months.astype(np.int64) % 12 + 1,
        "day": (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        "weekday": (days.astype(np.int64) + 3) % 7,
        "day_of_year": (days - years.astype("datetime64[D]")).astype(np.int64) + 1,
        "hour": into_day // 3_600_000_000,
        "minute": into_day // 60_000_000 % 60,
        "elapsed": times / DAY_MICROSECONDS,
    }
    matrix = np.stack([columns[part].astype(np.float64) for part in parts], 1)
    matrix[times == MISSING_TIME] = np.nan
    return matrix
