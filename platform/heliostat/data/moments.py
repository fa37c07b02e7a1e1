"""Counts, means, deviations and ranges of numbers, in parts that merge.

One pass over the copy gives the moments of every part of the rows; the training rows of a fold
are a union of parts, so that k folds cost one pass. Parts are merged shard by shard in row
order (Chan, Golub and LeVeque, 1979) in float64: no bit depends on who computed what.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int16]


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
        if len(values) == 0:
            return cls.nothing(values.shape[1])
        missing = np.isnan(values)
        if not missing.any():
            count = np.full(values.shape[1], float(len(values)))
            mean = values.mean(0, dtype=np.float64)
            off = values - mean.astype(values.dtype)
            return _corrected(count, mean.astype(values.dtype), off, values.min(0), values.max(0))
        count = (~missing).sum(0).astype(np.float64)
        total = np.where(missing, 0, values).sum(0, dtype=np.float64)
        shift = (total / np.maximum(count, 1)).astype(values.dtype)
        off = np.where(missing, 0, values - shift)
        low = np.where(missing, np.inf, values).min(0)
        return _corrected(count, shift, off, low, np.where(missing, -np.inf, values).max(0))

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


def _corrected(
    count: Floats,
    shift: npt.NDArray[np.floating],
    off: npt.NDArray[np.floating],
    low: npt.NDArray[np.floating],
    high: npt.NDArray[np.floating],
) -> Moments:
    """From deviations about `shift`, which is nearly the mean (the two-pass formula)."""
    total = off.sum(0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", off, off, dtype=np.float64)
    step = total / np.maximum(count, 1)
    return Moments(
        count,
        shift.astype(np.float64) + step,
        np.maximum(squares - total * step, 0),
        low.astype(np.float64),
        high.astype(np.float64),
    )


def num_threads() -> int:
    """How many CPUs this process may keep busy: Ray tells its workers so."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
