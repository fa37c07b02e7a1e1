"""What a sample tells of a column that a job should not learn from: one that nearly is the target,
or that counts the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.catalog.arrays import real_numbers, whole_numbers

LEAST_ROWS = 50
ROWS_PER_CODE, MOST_BINS = 10, 64
NEARLY_ALL = 0.97  # of what is left to explain of the classes
NEARLY_LINEAR, NEARLY_ALL_SPREAD = 0.999, 0.999

Codes = npt.NDArray[np.int64]


def counts_rows(values: pa.ChunkedArray, is_all: bool) -> bool:
    """Whether whole numbers follow the order of the rows, or number all of them; `is_all` says
    that these are all rows.
    """
    if not pa.types.is_integer(values.type) or values.null_count or len(values) < LEAST_ROWS:
        return False
    numbers = whole_numbers(values)
    rises = numbers[1:] > numbers[:-1]
    if rises.all() or not (rises | (numbers[1:] == numbers[:-1])).any():
        return True
    spans = int(numbers.max()) - int(numbers.min()) + 1 == len(numbers)
    return is_all and spans and len(np.unique(numbers)) == len(numbers)


def nearly_tells(values: pa.ChunkedArray, target: pa.ChunkedArray, of_classes: bool) -> bool:
    """Whether a column alone nearly determines the target. One with few rows to a value, which
    determines anything, is not asked.
    """
    known = pc.is_valid(target)
    values, target = values.filter(known), target.filter(known)
    if len(target) < LEAST_ROWS:
        return False
    codes = _codes(values)
    if of_classes:
        return codes is not None and _tells_classes(codes, _class_codes(target))
    numbers = real_numbers(target)
    if codes is not None and _tells_numbers(codes, numbers):
        return True
    return _is_numeric(values) and _rises_with(real_numbers(values), numbers)


def _tells_classes(codes: Codes, classes: Codes) -> bool:
    table = np.zeros((codes.max() + 1, classes.max() + 1))
    np.add.at(table, (codes, classes), 1)
    usual = table.sum(0).max()
    return bool(table.max(1).sum() - usual >= NEARLY_ALL * (table.sum() - usual) > 0)


def _tells_numbers(codes: Codes, numbers: npt.NDArray[np.float64]) -> bool:
    if len(np.unique(codes)) < 2 or np.isnan(numbers).any():
        return False
    means = np.bincount(codes, numbers) / np.maximum(np.bincount(codes), 1)
    left, spread = ((numbers - means[codes]) ** 2).sum(), ((numbers - numbers.mean()) ** 2).sum()
    return bool(spread > 0 and left <= (1 - NEARLY_ALL_SPREAD) * spread)


def _rises_with(numbers: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> bool:
    """Whether the ranks of both are nearly the same, or reversed."""
    known = ~(np.isnan(numbers) | np.isnan(others))
    ranks, other_ranks = (_ranks(column[known]) for column in (numbers, others))
    if known.sum() < LEAST_ROWS or np.ptp(ranks) == 0 or np.ptp(other_ranks) == 0:
        return False
    return abs(float(np.corrcoef(ranks, other_ranks)[0, 1])) >= NEARLY_LINEAR


def _ranks(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ordered = np.sort(numbers)
    first, last = (np.searchsorted(ordered, numbers, side) for side in ("left", "right"))
    return (first + last) / 2.0


def _codes(values: pa.ChunkedArray) -> Codes | None:
    """A code for each value; of numbers with many values one for each range. None: too many."""
    codes = _class_codes(values)
    most = max(2, len(codes) // ROWS_PER_CODE)
    if codes.max() < min(most, MOST_BINS) or (not _is_numeric(values) and codes.max() < most):
        return codes
    if not _is_numeric(values):
        return None
    numbers = real_numbers(values)
    edges = np.quantile(
        numbers[~np.isnan(numbers)], np.linspace(0, 1, min(most, MOST_BINS) + 1)[1:-1]
    )
    bins = np.searchsorted(edges, numbers, "right")
    return np.where(np.isnan(numbers), len(edges) + 1, bins)


def _class_codes(values: pa.ChunkedArray) -> Codes:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    return whole_numbers(pa.chunked_array([encoded.indices]))


def _is_numeric(values: pa.ChunkedArray) -> bool:
    return bool(
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_decimal(values.type)
    )
