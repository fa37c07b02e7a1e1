"""Fitted transforms: raw packed values to what a model sees.

An encoder is a value that `model.json` stores; training and `predict` apply the same one.
Categories become codes: 0 is any value not seen in training, 1 a missing one, 2 and up the
training rows' values in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.blocks import Gather, gather_of
from heliostat.data.custom import CustomTransform
from heliostat.data.hashing import value_hashes
from heliostat.data.pack import Packed, Words

UNKNOWN, MISSING, FIRST_VALUE = 0, 1, 2
TEXT_ROWS_AT_ONCE, VALUES_AT_ONCE = 8_192, 32_768
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class NumberTransform:
    """(x - offset) / scale, after x was clipped to [low, high] and missing values became `fill`
    (None: they stay NaN). `indicator`: a column of its own is 1 where x is missing. `part`
    says which number of the column x is; see `blocks`.
    """

    name: str
    fill: float | None
    offset: float
    scale: float
    low: float | None = None
    high: float | None = None
    indicator: bool = False
    part: str = ""

    @property
    def block(self) -> tuple[str, str]:
        """What is gathered at once: all plain numbers, else the column."""
        return (self.name, self.part.partition(":")[0]) if self.part else ("", "")


@dataclass(frozen=True)
class TextTransform:
    """Words to `buckets` numbers by hash, each times its weight, rows scaled to length 1."""

    name: str
    max_tokens: int
    weights: tuple[float, ...]

    def encode(self, words: Words, rows: npt.NDArray[np.int64]) -> Floats:
        """[rows, buckets] float32."""
        counts = np.empty((len(rows), len(self.weights)), np.float32)
        for start in range(0, len(rows), TEXT_ROWS_AT_ONCE):
            part = rows[start : start + TEXT_ROWS_AT_ONCE]
            counts[start : start + len(part)] = self.counts(words, part)
        counts *= np.array(self.weights, np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", counts, counts, dtype=np.float64))
        return counts / np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]

    def counts(self, words: Words, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How often each bucket's words are among the first `max_tokens` of each row."""
        starts = words.offsets[rows]
        lengths = np.minimum(words.offsets[rows + 1] - starts, self.max_tokens)
        row = np.repeat(np.arange(len(rows)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        bucket = words.hashes[starts[row] + place] % np.uint32(len(self.weights))
        cells = np.bincount(
            row * len(self.weights) + bucket, minlength=len(rows) * len(self.weights)
        )
        return cells.reshape(len(rows), len(self.weights))


@dataclass(frozen=True)
class TokenTransform:
    """The first `max_tokens` tokens of a text as codes: 0 is none, then 1 + the token's id.
    `cardinality` counts the codes.
    """

    name: str
    max_tokens: int
    cardinality: int

    def encode(self, words: Words, rows: npt.NDArray[np.int64]) -> Codes:
        """[rows, max_tokens] int32."""
        starts = words.offsets[rows]
        lengths = np.minimum(words.offsets[rows + 1] - starts, self.max_tokens)
        present = np.arange(self.max_tokens) < lengths[:, None]
        codes = np.zeros(present.shape, np.int32)
        places = (starts[:, None] + np.arange(self.max_tokens))[present]
        codes[present] = words.hashes[places].astype(np.int32) + 1
        return codes


@dataclass(frozen=True)
class CategoryTransform:
    """The vocabulary of a column, or how many buckets its values are hashed to; and the code
    that a missing value takes.
    """

    name: str
    values: tuple[str, ...]
    missing_code: int
    buckets: int | None = None

    @property
    def cardinality(self) -> int:
        """How many codes there are."""
        return (len(self.values) if self.buckets is None else self.buckets) + FIRST_VALUE

    def table(self, values: Sequence[str | None]) -> Codes:
        """Our code for each of a dictionary's values."""
        if self.buckets is not None:
            codes = bucket_codes(values, self.buckets)
            missing = np.array([value is None for value in values], bool)
            return np.where(missing, self.missing_code, codes).astype(np.int32)
        index = {value: code for code, value in enumerate(self.values, FIRST_VALUE)}
        known = [self.missing_code if v is None else index.get(v, UNKNOWN) for v in values]
        return np.array(known, np.int32)


def bucket_codes(values: Sequence[str | None], buckets: int) -> Codes:
    """The code of each value by its hash alone."""
    hashed = (value_hashes(0, values) % np.uint64(buckets)).astype(np.int32)
    return (hashed + FIRST_VALUE).astype(np.int32)


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
    """Encoded rows: `numbers` [rows, numbers] float32, `categories` [rows, categories] int32, of
    which the last are the tokens of texts, one text after the other.
    """

    numbers: Floats
    categories: Codes

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def empty(cls, num_rows: int, encoder: Encoder) -> Inputs:
        """Room for rows to be read into."""
        numbers = np.empty((num_rows, encoder.num_numbers), np.float32)
        return cls(numbers, np.empty((num_rows, encoder.num_codes), np.int32))

    def slice(self, start: int, stop: int) -> Inputs:
        """A view of consecutive rows."""
        return Inputs(self.numbers[start:stop], self.categories[start:stop])

    def take(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Copies of some rows, in their order."""
        return Inputs(self.numbers.take(rows, axis=0), self.categories.take(rows, axis=0))


@dataclass(frozen=True)
class Encoder:
    """All transforms of a model, in the order of its inputs."""

    numbers: tuple[NumberTransform, ...]
    categories: tuple[CategoryTransform, ...]
    target: TargetTransform
    texts: tuple[TextTransform, ...] = ()
    customs: tuple[CustomTransform, ...] = ()
    tokens: tuple[TokenTransform, ...] = ()

    @property
    def num_codes(self) -> int:
        """Columns of `Inputs.categories`: the categories, then each text's tokens."""
        return len(self.categories) + sum(text.max_tokens for text in self.tokens)

    @property
    def token_shapes(self) -> tuple[tuple[int, int], ...]:
        """(how many codes, how many places) of each text."""
        return tuple((text.cardinality, text.max_tokens) for text in self.tokens)

    @property
    def num_numbers(self) -> int:
        """Columns of `Inputs.numbers`: the numbers, their indicators, the texts' buckets."""
        indicators = sum(number.indicator for number in self.numbers)
        return len(self.numbers) + indicators + sum(len(text.weights) for text in self.texts)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each category has."""
        return tuple(category.cardinality for category in self.categories)

    def to_json(self) -> dict[str, Any]:
        """The state as `model.json` keeps it."""
        return asdict(self) | {"customs": [custom.to_json() for custom in self.customs]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], code: str = "") -> Encoder:
        """The encoder that `to_json` wrote; the user's own classes lie in the folder `code`."""
        target = dict(value["target"])
        for key in ("classes", "class_weights"):
            target[key] = tuple(target.get(key, ()))
        return cls(
            tuple(NumberTransform(**number) for number in value["numbers"]),
            tuple(
                CategoryTransform(**(c | {"values": tuple(c["values"])}))
                for c in value["categories"]
            ),
            TargetTransform(**target),
            tuple(
                TextTransform(**(text | {"weights": tuple(text["weights"])}))
                for text in value.get("texts", ())
            ),
            tuple(CustomTransform.from_json(own, code) for own in value.get("customs", ())),
            tuple(TokenTransform(**text) for text in value.get("tokens", ())),
        )

    def encode(self, packed: Packed, rows: npt.NDArray[np.int64] | None = None) -> Inputs:
        """Encode rows of a packed batch; all of them without `rows`."""
        rows = np.arange(packed.num_rows) if rows is None else rows
        inputs = Inputs.empty(len(rows), self)
        BoundEncoder(self, packed).read(rows, inputs)
        return inputs


class BoundEncoder:
    """An encoder bound to one packed batch: its columns found, its dictionaries translated."""

    def __init__(self, encoder: Encoder, packed: Packed) -> None:
        self.packed, self.encoder = packed, encoder
        own = {custom.name: custom for custom in encoder.customs}
        self._blocks = [
            _Block(packed, list(transforms), own)
            for _, transforms in groupby(encoder.numbers, lambda number: number.block)
        ]
        self._tables = [
            (packed.categories[c.name].codes, c.table(packed.categories[c.name].values))
            for c in encoder.categories
        ]

    def read(self, rows: npt.NDArray[np.int64], into: Inputs) -> None:
        """Encode `rows` into `into`."""
        at = 0
        rest: list[npt.NDArray[Any]] = []
        for block in self._blocks:
            end = at + block.width
            rest.append(block.read(rows, into.numbers[:, at:end]))
            at = end
        rest += [text.encode(self.packed.texts[text.name], rows) for text in self.encoder.texts]
        for part in rest:
            end = at + part.shape[1]
            into.numbers[:, at:end] = part
            at = end
        for i, (codes, table) in enumerate(self._tables):
            into.categories[:, i] = table[codes[rows]] if len(table) else UNKNOWN
        at = len(self._tables)
        for text in self.encoder.tokens:
            end = at + text.max_tokens
            into.categories[:, at:end] = text.encode(self.packed.texts[text.name], rows)
            at = end


class _Block:
    """The transforms of one gather."""

    def __init__(
        self,
        packed: Packed,
        transforms: Sequence[NumberTransform],
        own: Mapping[str, CustomTransform],
    ) -> None:
        names, parts = [t.name for t in transforms], [t.part for t in transforms]
        self.width = len(transforms)
        if parts[0].startswith("custom"):
            places = [int(part.partition(":")[2]) for part in parts]
            self._gather: Gather = lambda rows: own[names[0]].values(packed, rows)[:, places]
        else:
            self._gather = gather_of(packed, names, parts)
        wide = parts[0].startswith(("exact", "time", "custom"))
        type_ = np.float64 if wide else np.float32
        self._fill = np.array([np.nan if t.fill is None else t.fill for t in transforms], type_)
        self._offset = np.array([t.offset for t in transforms], type_)
        self._scale = np.array([t.scale for t in transforms], type_)
        self._low = np.array([-np.inf if t.low is None else t.low for t in transforms], type_)
        self._high = np.array([np.inf if t.high is None else t.high for t in transforms], type_)
        self._clipped = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._scaled = bool((self._offset != 0).any() or (self._scale != 1).any())
        self._indicators = [i for i, t in enumerate(transforms) if t.indicator]

    def read(self, rows: npt.NDArray[np.int64], into: Floats) -> npt.NDArray[np.bool_]:
        """Fill [rows, numbers]; tell which of those with an indicator are missing. So many rows at
        a time that all passes over them but the first find them in the processor's cache.
        """
        at_once = min(len(rows), max(1, VALUES_AT_ONCE // self.width))
        # As matrices, which NumPy goes through in one run; it would stop at the end of every row.
        offset, scale = np.tile(self._offset, (at_once, 1)), np.tile(self._scale, (at_once, 1))
        missing = np.empty((len(rows), len(self._indicators)), bool)
        for start in range(0, len(rows), at_once or 1):
            part = slice(start, start + at_once)
            missing[part] = self._read(rows[part], into[part], offset, scale)
        return missing

    def _read(
        self, rows: npt.NDArray[np.int64], into: Floats, offset: Values, scale: Values
    ) -> npt.NDArray[np.bool_]:
        values = self._gather(rows)
        if self._clipped:
            np.clip(values, self._low, self._high, out=values)
        # The maximum is NaN if any is; to look at each takes longer.
        if len(rows) and np.isnan(values.max()):
            missing = np.isnan(values)
            np.copyto(values, self._fill, where=missing)
            lacking = missing[:, self._indicators]
        else:
            lacking = np.zeros((len(rows), len(self._indicators)), bool)
        if self._scaled:
            values -= offset[: len(rows)]
            np.divide(values, scale[: len(rows)], out=into, casting="same_kind")
        else:
            into[...] = values
        return lacking
