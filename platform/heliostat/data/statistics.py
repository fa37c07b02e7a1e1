"""What transforms are fitted on, gathered for all parts of a split in one pass over a copy, a
shard at a time, and merged for any fold: k folds cost one pass.

Medians, quantiles and most frequent values come from the values themselves up to a million
training rows; beyond, from about a million of them, chosen by the rows' hashes: the rank of a
quantile is then off by a thousandth or less (two standard errors, 1/sqrt(n)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.blocks import gather_of, parts_of
from heliostat.data.custom import CustomTransform
from heliostat.data.encode import TEXT_ROWS_AT_ONCE, TextTransform
from heliostat.data.hashing import key_of, mix
from heliostat.data.moments import Moments, num_threads
from heliostat.data.pack import Packed, is_missing
from heliostat.data.prepared import Prepared
from heliostat.plan.columns import Columns
from heliostat.plan.inputs import TOKENS, InputColumn, PackedColumn

MOST_EXACT_ROWS = 1_000_000
PLAIN = ""  # the block of all plain numbers together
Labels = npt.NDArray[np.int16]
Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Statistics:
    """Of some rows: `moments` of each block of numbers, by column (`PLAIN`: all plain ones);
    `sample`, values of those columns that ask for more, by column and part, of `num_sampled`
    rows; how often each value of a category stands; in how many rows each bucket of a text
    stands; what the user's own classes learned; in how many rows an input that is no plain number
    is missing.
    """

    num_rows: int
    num_sampled: int
    moments: Mapping[str, Moments]
    sample: Mapping[tuple[str, str], Values]
    values: Mapping[str, Mapping[str, int]]
    buckets: Mapping[str, npt.NDArray[np.int64]]
    states: Mapping[str, Any]
    absent: Mapping[str, int]


@dataclass(frozen=True)
class Wanted:
    """What is to be gathered: the blocks of numbers, by name; the values kept as a sample; the
    categories; the texts with their weighting still to be learned; the user's own classes; the
    packed columns whose missing values are counted.
    """

    blocks: Mapping[str, tuple[str, ...]]
    sampled: tuple[tuple[str, str], ...]
    categories: tuple[str, ...]
    texts: tuple[TextTransform, ...]
    customs: tuple[CustomTransform, ...]
    counted: tuple[PackedColumn, ...]

    @classmethod
    def by(cls, columns: Columns, code: str) -> Wanted:
        """What the inputs and the target of a job ask for."""
        numbers = [c for c in columns.inputs if c.kind in ("number", "time", "vector")]
        target, blocks = columns.target, {c.name: tuple(parts_of(c)) for c in numbers}
        blocks = {name: parts for name, parts in blocks.items() if parts != ("",)}
        if target.form == "exact":
            blocks[target.name] = ("exact",)
        names = [c.name for c in columns.of_kind("category") if c.buckets is None]
        if target.form == "category":
            names.append(target.name)
        return cls(
            blocks,
            tuple((c.name, part) for c in numbers if _needs_values(c) for part in parts_of(c)),
            tuple(dict.fromkeys(names)),
            tuple(_unweighted(c) for c in columns.of_kind("text") if c.weighting != "count"),
            tuple(CustomTransform.unfitted(c, code) for c in columns.of_kind("custom")),
            tuple(sorted({packed for c in columns.inputs for packed in c.packed})),
        )


def _needs_values(column: InputColumn) -> bool:
    return column.clip_low is not None or column.missing in ("median", "most_frequent")


def _unweighted(column: InputColumn) -> TextTransform:
    assert column.buckets is not None
    return TextTransform(column.name, column.max_tokens, (1.0,) * column.buckets)


@dataclass(frozen=True)
class PartStatistics:
    """The statistics of each part of a split."""

    parts: tuple[Statistics, ...]
    customs: tuple[CustomTransform, ...]

    def of(self, chosen: Sequence[bool]) -> Statistics:
        """Of the chosen parts together.

        Raises:
            UserError: a class of the user's own cannot merge what it learned.
        """
        own = [part for part, take in zip(self.parts, chosen, strict=True) if take]
        states: dict[str, Any] = {}
        for custom in self.customs:
            found = [part.states[custom.name] for part in own if custom.name in part.states]
            states[custom.name] = reduce(custom.merged, found)
        return Statistics(
            sum(part.num_rows for part in own),
            sum(part.num_sampled for part in own),
            {key: reduce(Moments.merge, [p.moments[key] for p in own]) for key in own[0].moments},
            {key: np.concatenate([p.sample[key] for p in own]) for key in own[0].sample},
            {key: _added([part.values[key] for part in own]) for key in own[0].values},
            {key: np.sum([p.buckets[key] for p in own], axis=0) for key in own[0].buckets},
            states,
            {key: sum(part.absent[key] for part in own) for key in own[0].absent},
        )


def gather_statistics(
    prepared: Prepared, labels: Labels, num_parts: int, wanted: Wanted
) -> PartStatistics:
    """The statistics of each part: rows whose label is 0 to `num_parts` - 1; a negative label
    is no part.

    Raises:
        UserError: a class of the user's own fails.
    """
    share = MOST_EXACT_ROWS / max(1, int((labels >= 0).sum()))
    parts = [_Gathering(wanted) for _ in range(num_parts)]

    def of_shard(index: int) -> list[_OfShard]:
        start, shard = int(prepared.offsets[index]), prepared.shards[index]
        rows = _rows_of_parts(labels[start : start + shard.num_rows], num_parts)
        chosen = _chosen(prepared, index, share)
        return [_OfShard.of(shard, own, chosen, wanted) for own in rows]

    with ThreadPoolExecutor(num_threads()) as pool:
        for found in pool.map(of_shard, range(len(prepared.shards))):
            for part, own in zip(parts, found, strict=True):
                part.add(own)
    # The user's own code is called from one thread.
    for shard, start, end in prepared.spans() if wanted.customs else ():
        for part, rows in zip(parts, _rows_of_parts(labels[start:end], num_parts), strict=True):
            part.learn(shard, rows)
    return PartStatistics(tuple(part.finished() for part in parts), wanted.customs)


def _rows_of_parts(labels: Labels, num_parts: int) -> list[Rows]:
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(num_parts + 1))
    return [order[bounds[part] : bounds[part + 1]] for part in range(num_parts)]


def _chosen(prepared: Prepared, index: int, share: float) -> npt.NDArray[np.bool_]:
    """Which rows of a shard belong to the sample."""
    if share >= 1:
        return np.ones(prepared.shards[index].num_rows, bool)
    hashes = mix(prepared.shard_hashes(0, index) ^ key_of("statistics"))
    return np.asarray((hashes >> np.uint64(11)) < np.uint64(int(share * 2**53)))


@dataclass(frozen=True)
class _OfShard:
    """What a shard's rows of one part tell; categories as (values, count of each)."""

    num_rows: int
    num_sampled: int
    moments: Mapping[str, Moments]
    sample: Mapping[tuple[str, str], Values]
    values: Mapping[str, tuple[Sequence[str | None], npt.NDArray[np.int64]]]
    buckets: Mapping[str, npt.NDArray[np.int64]]
    absent: Mapping[str, int]

    @classmethod
    def of(
        cls, shard: Packed, rows: Rows, chosen: npt.NDArray[np.bool_], wanted: Wanted
    ) -> _OfShard:
        """Look at the shard's `rows`."""
        whole = len(rows) == shard.num_rows
        moments = {PLAIN: Moments.of(shard.numbers if whole else shard.numbers.take(rows, axis=0))}
        for name, parts in wanted.blocks.items():
            moments[name] = Moments.of(gather_of(shard, [name], parts)(rows))
        sampled = rows[chosen[rows]] if wanted.sampled else rows[:0]
        sample = {
            (name, part): gather_of(shard, [name], [part])(sampled)[:, 0]
            for name, part in wanted.sampled
        }
        values = {name: _value_counts(shard, name, rows) for name in wanted.categories}
        buckets = {text.name: _buckets(text, shard, rows) for text in wanted.texts}
        absent = absent_counts(shard, wanted.counted, rows)
        return cls(len(rows), len(sampled), moments, sample, values, buckets, absent)


def absent_counts(packed: Packed, columns: Sequence[PackedColumn], rows: Rows) -> dict[str, int]:
    """In how many of `rows` each column but plain numbers is missing; a text without words is."""
    return {
        column.name: int(_is_absent(packed, column)[rows].sum())
        for column in columns
        if column.form != "number"
    }


def _is_absent(packed: Packed, column: PackedColumn) -> npt.NDArray[np.bool_]:
    if column.form == "text" or column.form.startswith(TOKENS):
        return np.asarray(np.diff(packed.texts[column.name].offsets) == 0)
    return is_missing(packed, column)


def _value_counts(
    shard: Packed, name: str, rows: Rows
) -> tuple[Sequence[str | None], npt.NDArray[np.int64]]:
    category = shard.categories[name]
    return category.values, np.bincount(category.codes[rows], minlength=len(category.values))


def _buckets(text: TextTransform, shard: Packed, rows: Rows) -> npt.NDArray[np.int64]:
    """In how many rows each bucket stands."""
    present = np.zeros(len(text.weights), np.int64)
    for at in range(0, len(rows), TEXT_ROWS_AT_ONCE):
        counts = text.counts(shard.texts[text.name], rows[at : at + TEXT_ROWS_AT_ONCE])
        present += (counts > 0).sum(0)
    return present


class _Gathering:
    """The statistics of one part, growing shard by shard in their order."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._num_rows = self._num_sampled = 0
        self._moments: dict[str, Moments] = {}
        self._sample: dict[tuple[str, str], list[Values]] = {key: [] for key in wanted.sampled}
        self._values: dict[str, Counter[str]] = {name: Counter() for name in wanted.categories}
        self._buckets = {t.name: np.zeros(len(t.weights), np.int64) for t in wanted.texts}
        self._states: dict[str, Any] = {}
        self._absent = {c.name: 0 for c in wanted.counted if c.form != "number"}

    def add(self, own: _OfShard) -> None:
        self._num_rows += own.num_rows
        self._num_sampled += own.num_sampled
        for name, moments in own.moments.items():
            before = self._moments.get(name)
            self._moments[name] = moments if before is None else before.merge(moments)
        for key, values in own.sample.items():
            self._sample[key].append(values)
        for name, (texts, counts) in own.values.items():
            for place in np.flatnonzero(counts).tolist():
                if (value := texts[place]) is not None:
                    self._values[name][value] += int(counts[place])
        for name, present in own.buckets.items():
            self._buckets[name] += present
        for name, count in own.absent.items():
            self._absent[name] += count

    def learn(self, shard: Packed, rows: Rows) -> None:
        for custom in self._wanted.customs if len(rows) else ():
            state = custom.learned(shard, rows)
            if custom.name in self._states:
                state = custom.merged(self._states[custom.name], state)
            self._states[custom.name] = state

    def finished(self) -> Statistics:
        sample = {
            key: np.concatenate(values) if values else np.empty(0, np.float32)
            for key, values in self._sample.items()
        }
        return Statistics(
            self._num_rows, self._num_sampled, self._moments, sample, self._values,
            self._buckets, self._states, self._absent,
        )  # fmt: skip


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Sums by value, values in order."""
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    return dict(sorted(total.items()))
