"""Parts of exact sizes by the order of hashes, in three passes over them and without a sort:
count the hashes' leading bits, look closely where a part ends, then tell each its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.hashing import Hashes

MOST_BITS, MOST_CELLS = 16, 1 << 20
Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Chunks = Callable[[], Iterable[tuple[Hashes, Codes]]]


def parts_by_rank(
    chunks: Chunks, num_classes: int, sizes_of: Callable[[Counts], Counts]
) -> Iterator[npt.NDArray[np.int8]]:
    """The part of every row, chunk by chunk.

    `chunks()` gives (hashes, class of each) again and again; `sizes_of(rows of each class)` says
    how many rows of each class the parts hold, [classes, parts], less a last part that takes the
    rest. Part 0 holds the smallest hashes of its class, part 1 the next; among equal hashes the
    first rows come first.
    """
    cuts, num_parts = _measured(chunks, num_classes, sizes_of)
    for hashes, classes in chunks():
        parts = np.full(len(hashes), num_parts, np.int8)
        for part in range(num_parts):
            if cuts.is_filled(part):  # who is inside one part's end is inside all later ones
                parts -= cuts.inside(part, hashes, classes)
        yield parts


def bounds_by_rank(chunks: Callable[[], Iterable[Hashes]], sizes: Sequence[int]) -> tuple[int, ...]:
    """Where parts of these sizes end: the first hash after each. Part 0 holds the smallest."""

    def classed() -> Iterator[tuple[Hashes, Codes]]:
        for hashes in chunks():
            yield hashes, np.zeros(len(hashes), np.int64)

    cuts, _ = _measured(classed, 1, lambda _: np.array([sizes], np.int64))
    return tuple(int(last) + 1 if last else 0 for last in cuts.thresholds[0])


def _measured(
    chunks: Chunks, num_classes: int, sizes_of: Callable[[Counts], Counts]
) -> tuple[_Cuts, int]:
    """Where parts end, and how many there are."""
    bits = min(MOST_BITS, max(1, (MOST_CELLS // num_classes).bit_length() - 1))
    counted = np.zeros(num_classes << bits, np.int64)
    for hashes, classes in chunks():
        counted += np.bincount((classes << bits) + _leading(hashes, bits), minlength=len(counted))
    below = counted.reshape(num_classes, 1 << bits).cumsum(1)
    ends = np.minimum(sizes_of(below[:, -1]).cumsum(1), below[:, -1:])
    return _cuts(chunks, below, ends, bits), ends.shape[1]


@dataclass(frozen=True)
class _Cuts:
    """Where the parts of each class end: hashes below `thresholds` [classes, parts] are inside,
    and so are the next `ties` rows that equal them.
    """

    thresholds: Hashes
    ties: Counts

    def is_filled(self, part: int) -> bool:
        """Whether any row lies before the end of a part."""
        return bool(self.ties[:, part].any() or self.thresholds[:, part].any())

    def inside(self, part: int, hashes: Hashes, classes: Codes) -> npt.NDArray[np.bool_]:
        """Which rows lie before the end of a part; rows come in order."""
        one_class = len(self.thresholds) == 1
        threshold = self.thresholds[0, part] if one_class else self.thresholds[classes, part]
        inside: npt.NDArray[np.bool_] = hashes < threshold
        for row in np.flatnonzero(hashes == threshold).tolist():
            if self.ties[classes[row], part]:
                self.ties[classes[row], part] -= 1
                inside[row] = True
        return inside


def _leading(hashes: Hashes, bits: int) -> Codes:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _cuts(chunks: Chunks, below: Counts, ends: Counts, bits: int) -> _Cuts:
    """From the hashes that share the leading bits of an end."""
    num_classes, num_parts = ends.shape
    places = np.array([np.searchsorted(below[c], ends[c]) for c in range(num_classes)])
    wanted = np.zeros(below.shape, bool)
    for label in range(num_classes):
        wanted[label, places[label][ends[label] > 0]] = True
    close: list[tuple[Hashes, Codes]] = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
    for hashes, classes in chunks() if wanted.any() else ():
        chosen = wanted[classes, _leading(hashes, bits)]
        close.append((hashes[chosen], classes[chosen]))
    near = np.concatenate([hashes for hashes, _ in close])
    of_class = np.concatenate([classes for _, classes in close])
    order = np.lexsort((near, of_class))
    near, bounds = near[order], np.searchsorted(of_class[order], np.arange(num_classes + 1))
    cuts = _Cuts(np.zeros(ends.shape, np.uint64), np.zeros(ends.shape, np.int64))
    for label in range(num_classes):
        own = near[bounds[label] : bounds[label + 1]]
        leading = _leading(own, bits)
        for part in range(num_parts):
            if ends[label, part]:
                place = places[label, part]
                before = below[label, place - 1] if place else 0
                first = int(np.searchsorted(leading, place))
                threshold = own[first + int(ends[label, part] - before) - 1]
                cuts.thresholds[label, part] = threshold
                smaller = int(np.searchsorted(own, threshold)) - first
                cuts.ties[label, part] = int(ends[label, part] - before) - smaller
    return cuts
