"""Counts, means, deviations and ranges of numbers, in parts that merge.

One pass over the copy gives the moments of every part of the rows; the training rows of a fold
are a union of parts, so that k folds cost one pass. Parts are merged shard by shard in row
order (Chan, Golub and LeVeque, 1979) in float64: no bit depends on who computed what.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int16]
VALUES_AT_ONCE = 2_048


@dataclass(frozen=True)
class Moments:
    """Of each of several columns: how many values are present, their mean, their sum of squared
    deviations, the least and the greatest.
    """

    count: Floats
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats

    @classmethod
    def nothing(cls, width: int) -> Moments:
        """Of no rows."""
        zeros = np.zeros(width)
        return cls(zeros, zeros, zeros, np.full(width, math.inf), np.full(width, -math.inf))

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Moments:
        """Of [rows, columns]; NaN is missing."""
        width = values.shape[1]
        if values.size == 0:
            return cls.nothing(width)
        low, high = _by_column(np.fmin, values), _by_column(np.fmax, values)
        deviations = values.astype(np.float64)
        count = np.full(width, float(len(values)))
        missing = np.isnan(deviations) if np.isnan(values.max()) else None
        if missing is not None:
            deviations[missing] = 0.0
            count -= missing.sum(0)
        mean = _by_column(np.add, deviations) / np.maximum(count, 1)
        _less(deviations, mean)
        if missing is not None:
            deviations[missing] = 0.0
        # The two-pass formula: what rounding has left of the mean is taken out again.
        total = _by_column(np.add, deviations)
        np.square(deviations, out=deviations)
        step = total / np.maximum(count, 1)
        return cls(
            count,
            mean + step,
            np.maximum(_by_column(np.add, deviations) - total * step, 0),
            np.where(np.isnan(low), math.inf, low).astype(np.float64),
            np.where(np.isnan(high), -math.inf, high).astype(np.float64),
        )

    def merge(self, other: Moments) -> Moments:
        """The moments of both together."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = np.where(self.count == 0, 0, other.mean - self.mean)
        return Moments(
            count,
            np.where(self.count == 0, other.mean, self.mean + delta * share),
            self.squares + other.squares + delta * delta * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def deviation(self) -> Floats:
        """The population's standard deviations."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def _by_column(reduction: np.ufunc, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each column reduced. NumPy stops at the end of every row, which takes most of the time where
    rows are short: so many rows as one.
    """
    num_rows, width = values.shape
    together = max(1, VALUES_AT_ONCE // width)
    even = num_rows - num_rows % together
    parts = [values[even:]] if even < num_rows else []
    if even:
        wide = values[:even].reshape(-1, together * width)
        parts.append(reduction.reduce(wide, axis=0).reshape(together, width))
    return np.asarray(reduction.reduce(np.concatenate(parts), axis=0))


def _less(values: npt.NDArray[np.float64], row: Floats) -> None:
    """Subtract a row from each, in place; so many rows as one, as above."""
    num_rows, width = values.shape
    together = max(1, VALUES_AT_ONCE // width)
    even = num_rows - num_rows % together
    wide = values[:even].reshape(-1, together * width)
    wide -= np.tile(row, together)
    values[even:] -= row


def num_threads() -> int:
    """How many CPUs this process may keep busy: Ray tells its workers so."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
