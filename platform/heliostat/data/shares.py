"""How many values of each input are missing, or were never seen in training: counted in the
same way when a model is trained and when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from heliostat.data.encode import CategoryTransform, Encoder
from heliostat.data.pack import Packed
from heliostat.data.statistics import PLAIN, Statistics, absent_counts
from heliostat.plan.inputs import PackedColumn

LEAST_EXCESS = 0.05
NUM_DEVIATIONS = 3.0  # of what chance alone makes of a share in few rows
MOST_LINES = 20
MEANINGS = {"unseen": "are not among those seen in training", "missing": "are missing"}


@dataclass(frozen=True)
class Share:
    """Of an input's values, how many are missing, and how many of a category were not seen in
    training (None: that is not known, of anything else).
    """

    missing: float
    unseen: float | None = None


def training_shares(
    known: Statistics, encoder: Encoder, number_names: Sequence[str]
) -> dict[str, Share]:
    """The shares in the training rows that `known` tells of; `number_names` are its plain numbers.
    Values too rare for the vocabulary count as unseen.
    """
    present = known.moments[PLAIN].count
    absent = {name: known.num_rows - int(present[i]) for i, name in enumerate(number_names)}
    absent |= known.absent
    categories = {category.name: category for category in encoder.categories}
    return {
        name: _share(known.num_rows, count, _unseen_in_training(known, categories.get(name)))
        for name, count in sorted(absent.items())
    }


def _unseen_in_training(known: Statistics, category: CategoryTransform | None) -> int | None:
    if category is None or category.buckets is not None or category.name not in known.values:
        return None
    vocabulary, values = set(category.values), known.values[category.name]
    return sum(count for value, count in values.items() if value not in vocabulary)


def _share(num_rows: int, missing: int, unseen: int | None) -> Share:
    rows = max(1, num_rows)
    return Share(missing / rows, None if unseen is None else unseen / rows)


class Counts:
    """Missing and unseen values of rows that a model was given, growing batch by batch."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.missing: dict[str, int] = {}
        self.unseen: dict[str, int] = {}

    def add_batch(self, packed: Packed, columns: Sequence[PackedColumn], encoder: Encoder) -> None:
        """Count one packed batch."""
        missing = absent_counts(packed, columns, np.arange(packed.num_rows))
        present = (~np.isnan(packed.numbers)).sum(0)
        plain = {
            name: packed.num_rows - int(n)
            for name, n in zip(packed.number_names, present, strict=True)
        }
        unseen = {
            category.name: _num_unseen(packed, category)
            for category in encoder.categories
            if category.buckets is None
        }
        self.add(packed.num_rows, plain | missing, unseen)

    def add(self, num_rows: int, missing: Mapping[str, int], unseen: Mapping[str, int]) -> None:
        """Add what was counted elsewhere."""
        self.num_rows += num_rows
        for total, counts in ((self.missing, missing), (self.unseen, unseen)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count

    def shares(self) -> dict[str, Share]:
        """The shares in all rows so far."""
        return {
            name: _share(self.num_rows, count, self.unseen.get(name))
            for name, count in sorted(self.missing.items())
        }


def _num_unseen(packed: Packed, category: CategoryTransform) -> int:
    own, vocabulary = packed.categories[category.name], set(category.values)
    unseen = [value is not None and value not in vocabulary for value in own.values]
    counts = np.bincount(own.codes, minlength=len(unseen))
    return int(counts[np.array(unseen, bool)].sum())


def shares_json(found: Counts, training: Mapping[str, Share]) -> dict[str, Any]:
    """The shares of each input, and those in training (null where they are not known)."""
    return {
        name: asdict(share) | {"training": asdict(training[name]) if name in training else None}
        for name, share in found.shares().items()
    }


def shares_lines(found: Counts, training: Mapping[str, Share]) -> list[str]:
    """A line for each input of which anything is missing or new, the largest shares first."""
    shares = {n: s for n, s in found.shares().items() if s.missing or s.unseen}
    order = sorted(shares, key=lambda name: -max(shares[name].missing, shares[name].unseen or 0))
    lines = [f"{name}: {_words(shares[name], training.get(name))}" for name in order[:MOST_LINES]]
    if len(order) > MOST_LINES:
        lines.append(f"{len(order) - MOST_LINES} more columns have missing or unseen values")
    return lines


def _words(share: Share, training: Share | None) -> str:
    words = []
    for what in ("unseen", "missing"):
        if value := getattr(share, what):
            usual = None if training is None else getattr(training, what)
            words.append(
                f"{value:.1%} {what}" + ("" if usual is None else f" ({usual:.1%} in training)")
            )
    return ", ".join(words)


def share_warnings(found: Counts, training: Mapping[str, Share]) -> list[str]:
    """What is far more often missing or new than it was in training."""
    warnings = []
    for name, share in found.shares().items():
        for what, meaning in MEANINGS.items():
            value, usual = getattr(share, what), getattr(training.get(name), what, None)
            if value and usual is not None and _is_far_above(value, usual, found.num_rows):
                warnings.append(
                    f"{name}: {value:.1%} of the values {meaning}; in training {usual:.1%}"
                )
    return warnings


def _is_far_above(share: float, in_training: float, num_rows: int) -> bool:
    """Whether a share is larger than training's by more than chance makes of so few rows, and by
    more than anybody can do without.
    """
    deviation = math.sqrt(in_training * (1 - in_training) / max(1, num_rows))
    return share > in_training + max(LEAST_EXCESS, NUM_DEVIATIONS * deviation)
