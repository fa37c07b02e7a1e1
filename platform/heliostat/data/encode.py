"""Fitted transforms: raw packed values to what a model sees.

An encoder is a value that `model.json` stores; training and `predict` apply the same one.
Categories become codes: 0 is any value not seen in training, 1 a missing one, 2 and up the
training rows' values in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.pack import Packed

UNKNOWN, MISSING, FIRST_VALUE = 0, 1, 2
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class NumberTransform:
    """(x - offset) / scale, after x was clipped to [low, high] and missing values became `fill`
    (None: they stay NaN). `indicator`: a column of its own is 1 where x is missing.
    """

    name: str
    fill: float | None
    offset: float
    scale: float
    low: float | None = None
    high: float | None = None
    indicator: bool = False


@dataclass(frozen=True)
class CategoryTransform:
    """The vocabulary of a column, and the code that a missing value takes."""

    name: str
    values: tuple[str, ...]
    missing_code: int

    @property
    def cardinality(self) -> int:
        """How many codes there are."""
        return len(self.values) + FIRST_VALUE

    def table(self, values: Sequence[str | None]) -> Codes:
        """Our code for each of a dictionary's values."""
        index = {value: code for code, value in enumerate(self.values, FIRST_VALUE)}
        codes = [self.missing_code if v is None else index.get(v, UNKNOWN) for v in values]
        return np.array(codes, np.int32)


@dataclass(frozen=True)
class TargetTransform:
    """Classes in code order; or, for numbers, what training subtracts and divides by. A row
    weighs as much as its `weight` column says, times its class's weight (none: 1).
    """

    name: str
    classes: tuple[str, ...]
    offset: float
    scale: float
    source_type: str
    class_weights: tuple[float, ...] = ()
    weight: str | None = None


@dataclass(frozen=True)
class Inputs:
    """Encoded rows: `numbers` [rows, numbers] float32, `categories` [rows, categories] int32."""

    numbers: Floats
    categories: Codes

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Encoder:
    """All transforms of a model, in the order of its inputs."""

    numbers: tuple[NumberTransform, ...]
    categories: tuple[CategoryTransform, ...]
    target: TargetTransform

    @property
    def num_numbers(self) -> int:
        """Columns of `Inputs.numbers`: the numbers, then their indicators."""
        return len(self.numbers) + sum(number.indicator for number in self.numbers)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each category has."""
        return tuple(category.cardinality for category in self.categories)

    def to_json(self) -> dict[str, Any]:
        """The state as `model.json` keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Encoder:
        """The encoder that `to_json` wrote."""
        target = dict(value["target"])
        for key in ("classes", "class_weights"):
            target[key] = tuple(target.get(key, ()))
        return cls(
            tuple(NumberTransform(**number) for number in value["numbers"]),
            tuple(
                CategoryTransform(c["name"], tuple(c["values"]), c["missing_code"])
                for c in value["categories"]
            ),
            TargetTransform(**target),
        )

    def encode(self, packed: Packed, rows: npt.NDArray[np.int64] | None = None) -> Inputs:
        """Encode rows of a packed batch; all of them without `rows`."""
        return BoundEncoder(self, packed).inputs(rows)


class BoundEncoder:
    """An encoder bound to one packed batch: its columns found, its dictionaries translated."""

    def __init__(self, encoder: Encoder, packed: Packed) -> None:
        self.packed = packed
        index = {name: i for i, name in enumerate(packed.number_names)}
        self._columns = np.array([index[n.name] for n in encoder.numbers], np.int64)
        self._all_columns = np.array_equal(self._columns, np.arange(packed.numbers.shape[1]))
        self._fill = np.array(
            [np.nan if n.fill is None else n.fill for n in encoder.numbers], np.float32
        )
        self._offset = np.array([n.offset for n in encoder.numbers], np.float32)
        self._scale = np.array([n.scale for n in encoder.numbers], np.float32)
        low = [-np.inf if n.low is None else n.low for n in encoder.numbers]
        high = [np.inf if n.high is None else n.high for n in encoder.numbers]
        self._low, self._high = np.array(low, np.float32), np.array(high, np.float32)
        self._clipped = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._indicators = np.flatnonzero([n.indicator for n in encoder.numbers])
        self._scaled = bool((self._offset != 0).any() or (self._scale != 1).any())
        self._tables = [
            (packed.categories[c.name].codes, c.table(packed.categories[c.name].values))
            for c in encoder.categories
        ]

    def inputs(self, rows: npt.NDArray[np.int64] | None) -> Inputs:
        """The encoded rows."""
        numbers = self.packed.numbers
        numbers = numbers.copy() if rows is None else np.take(numbers, rows, axis=0)
        if not self._all_columns:
            numbers = numbers[:, self._columns]
        if self._clipped:
            numbers = np.clip(numbers, self._low, self._high)
        missing = np.isnan(numbers)
        if missing.any():
            numbers = np.where(missing, self._fill, numbers)
        if self._scaled:
            numbers = (numbers - self._offset) / self._scale
        if len(self._indicators):
            numbers = np.concatenate([numbers, missing[:, self._indicators]], 1, dtype=np.float32)
        categories = np.empty((len(numbers), len(self._tables)), np.int32)
        for i, (codes, table) in enumerate(self._tables):
            picked = codes if rows is None else codes[rows]
            categories[:, i] = table[picked] if len(table) else UNKNOWN
        return Inputs(np.ascontiguousarray(numbers, np.float32), categories)
