"""Which rows take part: cleaning comes before splitting, and every dropped row is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heliostat.data.duplicates import repeats
from heliostat.data.pack import Packed, is_missing
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.spec.data import CleanSpec

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CleanRows:
    """Which rows take part, and how many were dropped for which reason."""

    keep: Mask
    dropped: dict[str, int]


def clean_rows(prepared: Prepared, columns: Columns, clean: CleanSpec) -> CleanRows:
    """Drop what `clean` and `missing: drop` say.

    Raises:
        DataError: a target is missing and the job says `missing_target: error`.
    """
    parts = [kept_rows(shard, columns) for shard in prepared.shards]
    keep = np.concatenate([mask for mask, _ in parts])
    dropped = merged_counts(counts for _, counts in parts)
    check_target(dropped, columns, clean)
    if clean.duplicates == "drop" and (repeated := repeats(prepared, keep)).any():
        dropped["duplicate rows"] = int(repeated.sum())
        keep &= ~repeated
    return CleanRows(keep, dropped)


def kept_rows(packed: Packed, columns: Columns) -> tuple[Mask, dict[str, int]]:
    """Which rows of a batch lack nothing they need, and how many were dropped for which reason.

    Raises:
        DataError: a weight is negative.
    """
    keep = np.ones(packed.num_rows, bool)
    dropped: dict[str, int] = {}
    for reason, bad in _lacking(packed, columns):
        dropped[reason] = int((keep & bad).sum())
        keep &= ~bad
    return keep, dropped


def merged_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts by name, those of nothing left out."""
    total: dict[str, int] = {}
    for counts in parts:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return {name: count for name, count in total.items() if count}


def check_target(dropped: Mapping[str, int], columns: Columns, clean: CleanSpec) -> None:
    """Raise DataError where targets are missing and the job takes that for an error."""
    name = columns.target.name
    missing = dropped.get(_missing_target(columns), 0)
    if clean.missing_target == "error" and missing:
        raise DataError(
            Problem(
                "data.target",
                f"`{name}` is missing in {missing:,} rows",
                "write `clean: {missing_target: drop}` to leave them out",
            )
        )


def _missing_target(columns: Columns) -> str:
    return f"{columns.target.name}: target missing"


def _lacking(packed: Packed, columns: Columns) -> Iterator[tuple[str, Mask]]:
    yield _missing_target(columns), is_missing(packed, columns.target)
    if columns.weight is not None:
        name = columns.weight.name
        yield f"{name}: weight missing", _missing_weight(packed, name)
    if columns.split is not None:
        yield f"{columns.split.name}: split column missing", is_missing(packed, columns.split)
    for column in columns.inputs:
        if column.missing == "drop":
            yield f"{column.name}: missing", is_missing(packed, column.packed[0])


def _missing_weight(packed: Packed, name: str) -> Mask:
    weights = packed.exact[name]
    if negative := int((weights < 0).sum()):
        raise DataError(
            Problem("data.weight", f"`{name}` is negative in {negative:,} rows", "weigh from 0 up")
        )
    return np.isnan(weights)
