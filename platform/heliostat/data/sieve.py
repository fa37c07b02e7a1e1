"""Which rows of a streamed source are kept in its copy: those held out, and a sample of the
training rows. A row tells by itself: by its identity and its own values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.catalog.catalog import Catalog
from heliostat.data.clean import kept_rows
from heliostat.data.hashing import Hashes, key_of, mix, row_hashes
from heliostat.data.pack import Packed
from heliostat.data.ranks import bounds_by_rank
from heliostat.data.split import hashed_sides, named_sides, sides_by_hash
from heliostat.data.times import NONE
from heliostat.plan.columns import Columns
from heliostat.plan.counts import SIDES, share_count
from heliostat.plan.plan import Plan
from heliostat.plan.stream import SAMPLE_ROWS
from heliostat.spec.data import ColumnSplit, DataSpec, FractionSplit, HashSplit, SourceSplit

Rows = npt.NDArray[np.int64]
Sides = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Sieve:
    """`bounds` part the sides of a random split; `share` of the training rows are sampled."""

    columns: Columns
    data: DataSpec
    seed: int
    bounds: tuple[int, ...]
    share: float = 1.0

    def sides(self, packed: Packed, path: str, rows: Rows) -> tuple[Sides, dict[str, int]]:
        """The side of each row of a file, NONE if it is dropped; and how many are, by reason."""
        keep, dropped = kept_rows(packed, self.columns)
        return np.where(keep, self._sides(packed, path, rows), np.int8(NONE)), dropped

    def sampled(self, path: str, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows belong to the sample, if they are for training."""
        hashes = mix(row_hashes(key_of(self.seed, path), rows) ^ key_of("sample"))
        return (hashes >> np.uint64(11)) < np.uint64(int(self.share * 2**53))

    def _sides(self, packed: Packed, path: str, rows: Rows) -> Sides:
        split = self.data.split
        if split.method == "random":
            return sides_by_hash(row_hashes(key_of(self.seed, path), rows), self.bounds)
        if isinstance(split, SourceSplit):
            return np.full(len(rows), SIDES.index(path.partition(":")[0]), np.int8)
        assert isinstance(split, (HashSplit, ColumnSplit))
        category = packed.categories[split.column]
        if isinstance(split, HashSplit):
            return hashed_sides(category.values, split, self.seed)[category.codes]
        return named_sides(category.values)[category.codes]


def sieve_of(plan: Plan) -> Sieve:
    """The sieve of a job that streams."""
    data, seed, catalog = plan.job.spec.data, plan.job.spec.seed, plan.catalog
    share = min(1.0, SAMPLE_ROWS / max(1, catalog.num_rows))
    return Sieve(plan.columns, data, seed, _bounds(data, seed, catalog), share)


def _bounds(data: DataSpec, seed: int, catalog: Catalog) -> tuple[int, ...]:
    """Sizes are exact before cleaning: what is dropped is dropped from every side."""
    if data.split.method != "random":
        return ()
    assert isinstance(data.split, FractionSplit)
    counts = [share_count(catalog.num_rows, s) for s in (data.split.test, data.split.validation)]

    def hashes() -> Iterator[Hashes]:
        for group in catalog.row_groups:
            rows = np.arange(group.first_row, group.first_row + group.num_rows)
            yield row_hashes(key_of(seed, group.path), rows)

    return bounds_by_rank(hashes, counts)
