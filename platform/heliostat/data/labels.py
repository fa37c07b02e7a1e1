"""Labels of the rows that take part, shard by shard: by the rank of a hash, by a column's
value, by anything known of each row. What a split and its folds are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes
from heliostat.data.pack import Packed
from heliostat.data.prepared import Prepared
from heliostat.data.ranks import Codes, Counts, parts_by_rank
from heliostat.plan.inputs import PackedColumn

Mask = npt.NDArray[np.bool_]
Labels = Iterator[npt.NDArray[np.int8]]  # of each shard's kept rows
OfValues = Callable[[Sequence[str | None]], npt.NDArray[np.int8]]


@dataclass(frozen=True)
class Kept:
    """The rows of a copy that take part: a mask over all of them."""

    prepared: Prepared
    mask: Mask

    def __len__(self) -> int:
        return int(self.mask.sum())

    def shards(self) -> Iterator[tuple[int, Packed, Mask]]:
        """Each shard's number, the shard, and the mask of its rows."""
        for index, (shard, start, end) in enumerate(self.prepared.spans()):
            yield index, shard, self.mask[start:end]

    def spread(self, labels: Labels, into: npt.NDArray[np.int8]) -> None:
        """Write labels to the kept rows' places in an array over all rows."""
        for (_, start, end), own in zip(self.prepared.spans(), labels, strict=True):
            into[start:end][self.mask[start:end]] = own


def by_rank(
    kept: Kept, seed: int, classes: str | None, sizes_of: Callable[[Counts], Counts]
) -> Labels:
    """Exact sizes in the order of the rows' hashes, in every class of the column `classes`."""
    index: dict[str | None, int] = {}
    if classes is not None:
        for _, shard, _ in kept.shards():
            for value in shard.categories[classes].values:
                index.setdefault(value, len(index))

    def chunks() -> Iterator[tuple[Hashes, Codes]]:
        for number, shard, mask in kept.shards():
            hashes = kept.prepared.shard_hashes(seed, number)[mask]
            if classes is None:
                yield hashes, np.zeros(len(hashes), np.int64)
                continue
            column = shard.categories[classes]
            table = np.array([index[value] for value in column.values], np.int64)
            yield hashes, table[column.codes[mask]]

    return parts_by_rank(chunks, max(1, len(index)), sizes_of)


def by_value(kept: Kept, column: str, label_of: OfValues) -> Labels:
    """By the value of a category alone."""
    for _, shard, mask in kept.shards():
        category = shard.categories[column]
        yield label_of(category.values)[category.codes[mask]]


def by_row(kept: Kept, labels: npt.NDArray[np.int8]) -> Labels:
    """By a label of each kept row."""
    at = 0
    for _, _, mask in kept.shards():
        count = int(mask.sum())
        yield labels[at : at + count]
        at += count


def value_sizes(kept: Kept, column: str) -> dict[str, int]:
    """How many kept rows each value of a category has, values in order."""
    sizes: dict[str, int] = {}
    for _, shard, mask in kept.shards():
        category = shard.categories[column]
        counts = np.bincount(category.codes[mask], minlength=len(category.values)).tolist()
        for value, count in zip(category.values, counts, strict=True):
            if value is not None and count:
                sizes[value] = sizes.get(value, 0) + count
    return dict(sorted(sizes.items()))


def times_of(kept: Kept, column: PackedColumn) -> npt.NDArray[Any]:
    """A time (or a number) of every kept row."""
    name = column.name
    return np.concatenate(
        [
            (shard.times if column.form == "time" else shard.exact)[name][mask]
            for _, shard, mask in kept.shards()
        ]
    )
