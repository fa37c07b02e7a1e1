"""Fit transforms on the training rows, and on no others.

Moments are merged chunk by chunk in row order (Chan, Golub and LeVeque, 1979) in float64, so
that no bit depends on who computed what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.encode import (
    FIRST_VALUE,
    MISSING,
    CategoryTransform,
    Encoder,
    NumberTransform,
    TargetTransform,
)
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns, InputColumn
from heliostat.spec.job import JobSpec

CHUNK_ROWS = 262_144
MAX_CATEGORIES = 1_000_000
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and range of a column's present values."""

    count: int
    mean: float
    squares: float
    low: float
    high: float

    def merge(self, other: Moments) -> Moments:
        """The moments of both together."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.squares + other.squares + delta * delta * self.count * other.count / count,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def deviation(self) -> float:
        """The population's standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def moments_of(values: npt.NDArray[np.floating]) -> Moments:
    """Moments of the values that are not NaN."""
    total = Moments(0, 0.0, 0.0, math.inf, -math.inf)
    for start in range(0, len(values), CHUNK_ROWS):
        chunk = values[start : start + CHUNK_ROWS].astype(np.float64)
        chunk = chunk[~np.isnan(chunk)]
        if len(chunk):
            mean = float(chunk.mean())
            squares = float(((chunk - mean) ** 2).sum())
            total = total.merge(
                Moments(len(chunk), mean, squares, float(chunk.min()), float(chunk.max()))
            )
    return total


def fit_encoder(prepared: Prepared, columns: Columns, spec: JobSpec, train: Rows) -> Encoder:
    """The encoder of a job, fitted on the rows `train`.

    Raises:
        DataError: a column holds no value in training, or classes do not fit the task.
    """
    return Encoder(
        tuple(_fit_number(prepared, column, train) for column in columns.numbers),
        tuple(_fit_category(prepared, column, train) for column in columns.categories),
        _fit_target(prepared, columns, spec, train),
    )


def _fit_number(prepared: Prepared, column: InputColumn, train: Rows) -> NumberTransform:
    values = prepared.number(column.name)[train]
    moments = moments_of(values)
    if moments.count == 0:
        raise DataError(
            Problem(
                f"data.features.{column.name}",
                "holds no value in the training rows",
                f"write `{column.name}: ignore`",
            )
        )
    fill = _fill_value(column, values, moments)
    if column.scale == "standard":
        # A constant column becomes zero, not NaN.
        return NumberTransform(column.name, fill, moments.mean, moments.deviation or 1.0)
    if column.scale == "min_max":
        return NumberTransform(column.name, fill, moments.low, (moments.high - moments.low) or 1.0)
    return NumberTransform(column.name, fill, 0.0, 1.0)


def _fill_value(
    column: InputColumn, values: npt.NDArray[np.float32], moments: Moments
) -> float | None:
    present = values[~np.isnan(values)]
    if column.missing == "keep":
        return None
    if column.missing == "constant":
        assert isinstance(column.constant, (int, float))
        return float(column.constant)
    if column.missing == "median":
        return float(np.median(present))
    if column.missing == "most_frequent":
        candidates, counts = np.unique(present, return_counts=True)
        return float(candidates[np.argmax(counts)])
    return moments.mean  # also what `drop` leaves to `predict`


def _fit_category(prepared: Prepared, column: InputColumn, train: Rows) -> CategoryTransform:
    codes, values = prepared.codes(column.name)
    if len(values) > MAX_CATEGORIES:
        raise DataError(
            Problem(
                f"data.features.{column.name}",
                f"has {len(values):,} different values; a category holds up to {MAX_CATEGORIES:,}",
                f"write `{column.name}: ignore`",
            )
        )
    seen = np.bincount(codes[train] + 1, minlength=len(values) + 1)[1:]
    vocabulary = tuple(value for value, count in zip(values, seen, strict=True) if count)
    if column.missing == "constant":
        filling = str(column.constant)
        if filling not in vocabulary:
            vocabulary = tuple(sorted((*vocabulary, filling)))
    elif column.missing == "most_frequent" and vocabulary:
        filling = values[int(np.argmax(seen))]
    else:
        return CategoryTransform(column.name, vocabulary, MISSING)
    return CategoryTransform(column.name, vocabulary, vocabulary.index(filling) + FIRST_VALUE)


def _fit_target(
    prepared: Prepared, columns: Columns, spec: JobSpec, train: Rows
) -> TargetTransform:
    name = columns.target.name
    if spec.data.task == "regression":
        moments = moments_of(prepared.exact(name)[train])
        if spec.model.family != "network":
            return TargetTransform(name, (), 0.0, 1.0, columns.target_type)
        return TargetTransform(
            name, (), moments.mean, moments.deviation or 1.0, columns.target_type
        )
    codes, values = prepared.codes(name)
    present = np.bincount(codes[train], minlength=len(values))
    classes = tuple(value for value, count in zip(values, present, strict=True) if count)
    classes = _ordered_classes(classes, spec)
    return TargetTransform(name, classes, 0.0, 1.0, columns.target_type)


def _ordered_classes(classes: tuple[str, ...], spec: JobSpec) -> tuple[str, ...]:
    if spec.data.task == "multiclass":
        if len(classes) < 2:
            raise DataError(_class_problem(spec, classes, "at least two classes"))
        return tuple(sorted(classes, key=_natural))
    if len(classes) != 2:
        raise DataError(_class_problem(spec, classes, "two classes"))
    ordered = tuple(sorted(classes, key=_natural))
    if spec.data.positive is None:
        return ordered
    positive = spec.data.positive
    text = str(positive).lower() if isinstance(positive, bool) else str(positive)
    if text not in classes:
        raise DataError(
            Problem(
                "data.positive",
                f"`{text}` is no class of `{spec.data.target}`",
                f"one of: {', '.join(ordered)}",
            )
        )
    return (next(c for c in ordered if c != text), text)


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by value, before words."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _class_problem(spec: JobSpec, classes: tuple[str, ...], needed: str) -> Problem:
    shown = ", ".join(classes[:8])
    return Problem(
        "data.target",
        f"`{spec.data.target}` has {len(classes)} classes in the training rows ({shown}); "
        f"task `{spec.data.task}` needs {needed}",
    )
