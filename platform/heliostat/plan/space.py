"""Which configurations a search tries: a pure function of the space and the seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.spec.tune import AshaScheduler, Range, Scheduler, TuneSpec

MAX_REDRAWS = 100
Configuration = dict[str, Any]


def configurations(tune: TuneSpec, seed: int) -> list[Configuration]:
    """All configurations in issue order, no two alike.

    A draw is a function of (seed, index, key) alone: a new key never changes the others'
    draws, and raising `trials` only appends. A space with fewer points than `trials` yields
    as many as it has found after 100 redraws in a row.
    """
    return list(_grid(tune) if tune.search == "grid" else _random(tune, seed))


def _grid(tune: TuneSpec) -> Iterator[Configuration]:
    for point in itertools.product(*(grid_values(d) for d in tune.space.values())):
        yield dict(zip(tune.space, point, strict=True))


def grid_values(dimension: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    """The points of a dimension on a grid; a range needs `step`."""
    if not isinstance(dimension, Range):
        return dimension
    if dimension.step is None:
        raise ValueError("a range on a grid needs `step`")
    count = math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
    return tuple(dimension.low + i * dimension.step for i in range(count))


def _random(tune: TuneSpec, seed: int) -> Iterator[Configuration]:
    seen: set[str] = set()
    for index in range(tune.trials or 0):
        for attempt in range(MAX_REDRAWS):
            drawn = {
                key: draw(dimension, uniform(seed, index, attempt, key))
                for key, dimension in tune.space.items()
            }
            identity = json.dumps(drawn, sort_keys=True)
            if identity not in seen:
                seen.add(identity)
                yield drawn
                break
        else:
            return


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone: 53 bits of its SHA-256."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53


def draw(dimension: tuple[Any, ...] | Range, u: float) -> Any:
    """The value of a dimension at quantile `u` in [0, 1)."""
    if not isinstance(dimension, Range):
        return dimension[int(u * len(dimension))]
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None:
        values = grid_values(dimension)
        return values[int(u * len(values))]
    if dimension.whole:
        # Half a unit on both sides gives the bounds the same chance as the numbers between.
        a, b = low - 0.5, high + 0.5
        value = (
            math.exp(math.log(a) + u * (math.log(b) - math.log(a)))
            if dimension.log
            else a + u * (b - a)
        )
        return min(max(round(value), int(low)), int(high))
    if dimension.log:
        return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    return low + u * (high - low)


def corner_settings(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """One (key, value) for every choice and every bound: what must be valid beforehand."""
    for key, dimension in space.items():
        values = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension
        for value in values:
            yield key, value


def rungs(scheduler: Scheduler, length: int) -> tuple[int, ...]:
    """Where trials are compared: grace x factor^k below the full length."""
    if not isinstance(scheduler, AshaScheduler):
        return ()
    result, rung = [], scheduler.grace_period
    while rung < length:
        result.append(rung)
        rung *= scheduler.reduction_factor
    return tuple(result)
