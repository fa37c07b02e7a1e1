"""Which configurations a search tries: a pure function of the space and the seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.spec.tune import AshaScheduler, Choice, Dimension, Scheduler, TuneSpec

MAX_REDRAWS = 100
MAX_TRIALS = 100_000
Configuration = dict[str, Any]


def configurations(tune: TuneSpec, seed: int) -> list[Configuration]:
    """All configurations of a grid or a random search in issue order, no two alike.

    A draw is a function of (seed, index, key) alone: a new key never changes the others'
    draws, and raising `trials` only appends. A space with fewer points than `trials` yields
    as many as it has found after 100 redraws in a row.

    Raises:
        ValueError: there are more than 100,000, or a grid has a range without `step`.
    """
    if tune.trials is not None and tune.trials > MAX_TRIALS:
        raise ValueError(_too_many(tune.trials))
    return list(_grid(tune) if tune.search == "grid" else _random(tune, seed))


def is_active(dimension: Dimension, config: Mapping[str, Any]) -> bool:
    """Whether the conditions of a dimension hold."""
    return all(
        other in config and config[other] in wanted for other, wanted in dimension.when.items()
    )


def _grid(tune: TuneSpec) -> Iterator[Configuration]:
    points: list[Configuration] = [{}]
    for key, dimension in tune.space.items():
        total = sum(num_values(dimension) if is_active(dimension, point) else 1 for point in points)
        if total > MAX_TRIALS:
            raise ValueError(_too_many(total))
        points = [
            grown
            for point in points
            for grown in (
                [{**point, key: nth_value(dimension, n)} for n in range(num_values(dimension))]
                if is_active(dimension, point)
                else [point]
            )
        ]
    yield from points


def _too_many(count: int) -> str:
    return f"{count:,} trials are more than {MAX_TRIALS:,}, the most of a sweep; search fewer"


def num_values(dimension: Dimension) -> int:
    """How many points a dimension has on a grid; a range needs `step`."""
    if isinstance(dimension, Choice):
        return len(dimension.values)
    if dimension.num_points is None:
        raise ValueError("a range on a grid needs `step`")
    return dimension.num_points


def nth_value(dimension: Dimension, place: int) -> Any:
    """The point at `place` on a grid, from 0."""
    if isinstance(dimension, Choice):
        return dimension.values[place]
    assert dimension.step is not None
    return dimension.low + place * dimension.step


def _random(tune: TuneSpec, seed: int) -> Iterator[Configuration]:
    seen: set[str] = set()
    for index in range(tune.trials or 0):
        for attempt in range(MAX_REDRAWS):
            drawn = drawn_configuration(tune.space, seed, index, attempt)
            identity = identity_of(drawn)
            if identity not in seen:
                seen.add(identity)
                yield drawn
                break
        else:
            return


def drawn_configuration(
    space: Mapping[str, Dimension], seed: int, index: int, attempt: int
) -> Configuration:
    """The `attempt`-th random draw for the trial `index`."""
    config: Configuration = {}
    for key, dimension in space.items():
        if is_active(dimension, config):
            config[key] = draw(dimension, uniform(seed, index, attempt, key))
    return config


def identity_of(config: Configuration) -> str:
    """Equal for equal configurations."""
    return json.dumps(config, sort_keys=True)


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone: 53 bits of its SHA-256."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53


def draw(dimension: Dimension, u: float) -> Any:
    """The value of a dimension at quantile `u` in [0, 1)."""
    if isinstance(dimension, Choice):
        return dimension.values[int(u * len(dimension.values))]
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None:
        return nth_value(dimension, int(u * num_values(dimension)))
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


def corners(space: Mapping[str, Dimension]) -> Iterator[tuple[str, Any, Configuration]]:
    """Every key at every choice and bound: (key, value, the configuration it stands in), which is
    what must be valid beforehand. With it stand what its conditions ask for, and the keys whose
    conditions then hold.
    """
    for key, dimension in space.items():
        for value in _corner_values(dimension):
            yield key, value, _corner(space, key, value)


def _corner_values(dimension: Dimension) -> tuple[Any, ...]:
    if isinstance(dimension, Choice):
        return dimension.values
    return (dimension.low, dimension.high)


def _corner(space: Mapping[str, Dimension], key: str, value: Any) -> Configuration:
    fixed, asked = {key: value}, [key]
    while asked:
        for other, wanted in space[asked.pop()].when.items():
            if other not in fixed:
                fixed[other] = wanted[0]
                asked.append(other)
    config: Configuration = {}
    for name, dimension in space.items():
        if name in fixed:
            config[name] = fixed[name]
        elif dimension.when and is_active(dimension, config):
            config[name] = _corner_values(dimension)[0]
    return config


def rungs(scheduler: Scheduler, length: int, validate_every: int = 1) -> tuple[int, ...]:
    """Where trials are compared: at the first validation not before grace x factor^k, below the
    full length.
    """
    if not isinstance(scheduler, AshaScheduler):
        return ()
    result, rung = [], scheduler.grace_period
    while (at := -(-rung // validate_every) * validate_every) < length:
        result.append(at)
        rung *= scheduler.reduction_factor
    return tuple(dict.fromkeys(result))
