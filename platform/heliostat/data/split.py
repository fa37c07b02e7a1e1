"""Which row is on which side: by row identity and seed alone, never by layout or workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.clean import CleanRows, clean_rows
from heliostat.data.folds import (
    Roles,
    grouped_folds,
    hashed_folds,
    ranked_folds,
    roles_of,
    timed_roles,
)
from heliostat.data.hashing import Hashes, mix, value_hashes
from heliostat.data.moments import Labels
from heliostat.data.prepared import Prepared
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.plan.counts import SIDES, share_count
from heliostat.spec.base import parse_duration_seconds
from heliostat.spec.data import (
    ColumnSplit,
    DataSpec,
    FractionSplit,
    GroupSplit,
    HashSplit,
    SourceSplit,
    TimeSplit,
)
from heliostat.spec.identity import digest_of
from heliostat.storage.files import publish_folder, read_json, stage_folder, write_json

Rows = npt.NDArray[np.int64]
TRAIN, VALIDATION, TEST, NONE = range(4)
MANIFEST, ROLES = "split.json", "roles.npy"
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class SplitRows:
    """Rows of each side, ascending, mapped into memory; `dropped` counts what was left out.

    With folds, no row validates here, and `roles` [folds, training rows] says what each
    training row is in each fold.
    """

    folder: Path
    sides: dict[str, Rows]
    dropped: dict[str, int]
    roles: Roles | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Rows a side."""
        return {side: len(rows) for side, rows in self.sides.items()}

    @classmethod
    def open(cls, folder: Path) -> SplitRows:
        """Map the split in `folder`."""
        sides = {side: np.load(folder / f"{side}.npy", mmap_mode="r") for side in SIDES}
        roles = np.load(path, mmap_mode="r") if (path := folder / ROLES).exists() else None
        return cls(folder, sides, read_json(folder / MANIFEST)["dropped"], roles)

    def parts(self, num_rows: int) -> tuple[Labels, npt.NDArray[np.bool_]]:
        """A label for each of the copy's rows (-1: not for training), and whether fold f trains
        on the rows labelled p, [folds, labels]. Without folds there is one of each.
        """
        labels = np.full(num_rows, -1, np.int16)
        if self.roles is None:
            labels[self.sides["train"]] = 0
            return labels, np.ones((1, 1), bool)
        kinds, of_row = _distinct_columns(np.asarray(self.roles))
        labels[self.sides["train"]] = of_row
        return labels, kinds == TRAIN

    def fold(self, fold: int) -> SplitRows:
        """The split of one fold."""
        assert self.roles is not None
        rows, role = self.sides["train"], self.roles[fold]
        sides = {"train": rows[role == TRAIN], "validation": rows[role == VALIDATION]}
        return SplitRows(self.folder, sides | {"test": self.sides["test"]}, self.dropped)


def split_rows(prepared: Prepared, columns: Columns, data: DataSpec, seed: int) -> SplitRows:
    """The split of a prepared copy, computed once and kept beside it.

    Raises:
        DataError: a side that was asked for holds no row.
    """
    final = prepared.folder / "splits" / _split_digest(columns, data, seed)
    if not (final / MANIFEST).exists():
        cleaned = clean_rows(prepared, columns, data.clean)
        sides = _assign(prepared, columns, data, seed, cleaned)
        if outside := len(cleaned.rows) - sum(len(rows) for rows in sides.values()):
            cleaned.dropped["in a gap of the time split"] = outside
        _check_all_counted(prepared, sides, cleaned)
        _check_not_empty(data, sides, cleaned)
        roles = _roles(prepared, columns, data, seed, sides["train"])
        _publish(final, sides, cleaned, roles)
    return SplitRows.open(final)


def _split_digest(columns: Columns, data: DataSpec, seed: int) -> str:
    drops = sorted(column.name for column in columns.inputs if column.missing == "drop")
    include: Any = {"split": True, "clean": {"duplicates", "missing_target"}, "target": True}
    value = data.model_dump(mode="json", include=include | {"weight": True})
    return digest_of([value, drops, seed])


def _distinct_columns(roles: Roles) -> tuple[Roles, npt.NDArray[np.int64]]:
    """The different columns of [folds, rows], and which of them each row's is."""
    validates = roles == VALIDATION
    if (validates.sum(0) == 1).all() and not (roles == NONE).any():
        kinds = np.where(np.eye(len(roles), dtype=bool), VALIDATION, TRAIN).astype(np.int8)
        return kinds, validates.argmax(0)
    keys = np.zeros(roles.shape[1], np.uint64)
    for role in roles:
        keys = mix(keys ^ role.astype(np.uint64))
    _, first, of_row = np.unique(keys, return_index=True, return_inverse=True)
    return roles[:, first], of_row


def _assign(
    prepared: Prepared, columns: Columns, data: DataSpec, seed: int, cleaned: CleanRows
) -> dict[str, Rows]:
    rows = cleaned.rows
    split = data.split
    if getattr(split, "folds", None) is not None:
        split = split.model_copy(update={"validation": 0.0})  # folds take its place
    if isinstance(split, TimeSplit):
        sides = _by_time(_time_of(prepared, columns)[rows], split)
    elif isinstance(split, HashSplit):
        codes, values = prepared.codes(split.column)
        sides = _by_value(codes[rows], values, split, seed)
    elif isinstance(split, GroupSplit):
        codes, values = prepared.codes(split.column)
        sides = _by_group(codes[rows], values, split, seed)
    elif isinstance(split, ColumnSplit):
        codes, values = prepared.codes(split.column)
        sides = _by_name(codes[rows], values, split)
    elif isinstance(split, SourceSplit):
        sides = _by_source(prepared)[rows]
    else:
        assert isinstance(split, FractionSplit)
        classes = np.zeros(len(rows), np.int32)
        if split.method == "stratified":
            classes = prepared.codes(data.target)[0][rows]
        sides = _by_rank(prepared.hashes(seed)[rows], classes, split)
    return {side: rows[sides == i] for i, side in enumerate(SIDES)}


def _by_rank(hashes: Hashes, classes: npt.NDArray[Any], split: FractionSplit) -> npt.NDArray[Any]:
    """The smallest hashes to test, the next to validation: exact counts, one cut a class."""
    sides = np.full(len(hashes), TRAIN, np.int8)
    labels, sizes = np.unique(classes, return_counts=True)
    num_test = _shares(sizes, split.test)
    num_validation = _shares(sizes, split.validation)
    for label, test, validation in zip(labels, num_test, num_validation, strict=True):
        members = np.flatnonzero(classes == label)
        test, validation = int(test), min(int(validation), len(members) - int(test))
        held_out = members[_smallest(hashes[members], test + validation)]
        in_test = held_out[_smallest(hashes[held_out], test)]
        sides[held_out] = VALIDATION
        sides[in_test] = TEST
    return sides


def _shares(sizes: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.int64]:
    """Whole shares of each class that add up to the share of the whole (largest remainder)."""
    total = share_count(int(sizes.sum()), fraction)
    exact = sizes * fraction
    shares = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: total - int(shares.sum())]] += 1
    return shares


def _smallest(hashes: Hashes, count: int) -> Rows:
    """Positions of the `count` smallest hashes; among equal ones the first."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count >= len(hashes):
        return np.arange(len(hashes))
    threshold = hashes[np.argpartition(hashes, count - 1)[count - 1]]
    below = np.flatnonzero(hashes < threshold)
    equal = np.flatnonzero(hashes == threshold)
    return np.concatenate([below, equal[: count - len(below)]])


def _by_value(
    codes: npt.NDArray[np.int32], values: tuple[str, ...], split: HashSplit, seed: int
) -> npt.NDArray[Any]:
    """By a hash of the column's value: the same value, the same side, today and tomorrow."""
    quantiles = (value_hashes(seed, values) >> np.uint64(11)).astype(np.float64) / 2**53
    sides = np.full(len(values), TRAIN, np.int8)
    sides[quantiles < split.test + split.validation] = VALIDATION
    sides[quantiles < split.test] = TEST
    return sides[codes]


def _by_group(
    codes: npt.NDArray[np.int32], values: tuple[str, ...], split: GroupSplit, seed: int
) -> npt.NDArray[Any]:
    """Whole groups in the order of their hashes: to test until that is nearest to its share,
    then to validation.
    """
    order = np.argsort(value_hashes(seed, values), kind="stable")
    sizes = np.bincount(codes, minlength=len(values))[order]
    filled = np.cumsum(np.concatenate([[0], sizes]))
    num_test = share_count(len(codes), split.test)
    test = _nearest(filled, num_test)
    validation = _nearest(filled - filled[test], share_count(len(codes), split.validation))
    sides = np.full(len(values), TRAIN, np.int8)
    sides[order[test : max(test, validation)]] = VALIDATION
    sides[order[:test]] = TEST
    return sides[codes]


def _nearest(filled: Rows, count: int) -> int:
    """How many groups come nearest to `count` rows."""
    return int(np.argmin(np.abs(filled - count)))


def _by_name(
    codes: npt.NDArray[np.int32], values: tuple[str, ...], split: ColumnSplit
) -> npt.NDArray[Any]:
    """The side that the column names."""
    for value in np.unique(codes):
        if values[value] not in SIDES:
            raise DataError(
                Problem(
                    "data.split.column",
                    f"`{split.column}` holds `{values[value]}`, which is no side",
                    f"one of: {', '.join(SIDES)}",
                )
            )
    table = np.array([SIDES.index(v) if v in SIDES else NONE for v in values], np.int8)
    return table[codes]


def _by_source(prepared: Prepared) -> npt.NDArray[Any]:
    """The side whose source the row's file belongs to."""
    segments = [segment for shard in prepared.segments for segment in shard]
    sides = [SIDES.index(segment.path.partition(":")[0]) for segment in segments]
    counts = [segment.num_rows for segment in segments]
    return np.repeat(np.array(sides, np.int8), counts)


def _time_of(prepared: Prepared, columns: Columns) -> npt.NDArray[Any]:
    assert columns.split is not None
    name = columns.split.name
    return prepared.times(name) if columns.split.form == "time" else prepared.exact(name)


def _by_time(times: npt.NDArray[Any], split: TimeSplit) -> npt.NDArray[Any]:
    """The latest times to test, those before to validation; equal times stay together, and a
    gap before each boundary belongs to no side.
    """
    sides = np.full(len(times), TRAIN, np.int8)
    ordered = np.sort(times)
    test_start = _start_of(ordered, split.test, len(times))
    before = ordered[ordered < test_start]
    validation_start = _start_of(before, split.validation, len(times))
    sides[times >= validation_start] = VALIDATION
    sides[times >= test_start] = TEST
    for start in {validation_start, test_start} - {np.inf}:
        sides[(times < start) & (times >= _gap_start(ordered, start, split.gap))] = NONE
    return sides


def _start_of(ordered: npt.NDArray[Any], share: float | str, num_rows: int) -> Any:
    """The first time of a side at the end of `ordered`: the boundary between different times
    nearest to the share asked for.
    """
    if len(ordered) == 0:
        return np.inf
    if isinstance(share, str):
        return ordered[-1] - _microseconds(share) + 1
    count = share_count(num_rows, share)
    if count == 0:
        return np.inf
    cut = ordered[max(len(ordered) - count, 0)]
    first = int(np.searchsorted(ordered, cut, "left"))
    after = int(np.searchsorted(ordered, cut, "right"))
    with_cut, without = len(ordered) - first, len(ordered) - after
    take = with_cut - count <= count - without or without == 0
    return cut if take else ordered[after]


def _gap_start(ordered: npt.NDArray[Any], start: Any, gap: float | str) -> Any:
    if isinstance(gap, str):
        return start - _microseconds(gap)
    count = share_count(len(ordered), gap)
    end = int(np.searchsorted(ordered, start, "left"))
    return ordered[max(end - count, 0)] if count and end else start


def _microseconds(duration: str) -> int:
    seconds = parse_duration_seconds(duration)
    assert seconds is not None
    return int(seconds * MICROSECONDS)


def _check_all_counted(prepared: Prepared, sides: dict[str, Rows], cleaned: CleanRows) -> None:
    """Rows in are rows out and rows counted as dropped: ours to guarantee."""
    out = sum(len(rows) for rows in sides.values()) + sum(cleaned.dropped.values())
    assert out == prepared.num_rows, (out, prepared.num_rows)


def _check_not_empty(data: DataSpec, sides: dict[str, Rows], cleaned: CleanRows) -> None:
    for side, rows in sides.items():
        in_folds = side == "validation" and getattr(data.split, "folds", None) is not None
        asked = not in_folds and getattr(data.split, side, 0) not in (0, 0.0)
        wanted = side == "train" or asked
        if wanted and len(rows) == 0:
            dropped = sum(cleaned.dropped.values())
            raise DataError(
                Problem(
                    "data.split",
                    f"the {side} side is empty: {len(cleaned.rows):,} rows take part, "
                    f"{dropped:,} were dropped in cleaning",
                    "enlarge its share, or clean less",
                )
            )


def _roles(
    prepared: Prepared, columns: Columns, data: DataSpec, seed: int, rows: Rows
) -> Roles | None:
    """Who validates in which fold, of the rows that are not for test; None without folds."""
    split = data.split
    num_folds = getattr(split, "folds", None)
    if num_folds is None:
        return None
    if isinstance(split, TimeSplit):
        times = _time_of(prepared, columns)[rows]
        ordered = np.sort(times)
        roles = timed_roles(times, num_folds, lambda start: _gap_start(ordered, start, split.gap))
    elif isinstance(split, (GroupSplit, HashSplit)):
        codes, values = prepared.codes(split.column)
        folds = grouped_folds if isinstance(split, GroupSplit) else hashed_folds
        roles = roles_of(folds(codes[rows], values, seed, num_folds), num_folds)
    else:
        classes = np.zeros(len(rows), np.int32)
        if split.method == "stratified":
            classes = prepared.codes(data.target)[0][rows]
        hashes = prepared.hashes(seed)[rows]
        roles = roles_of(ranked_folds(hashes, classes, num_folds), num_folds)
    for fold, role in enumerate(roles):
        for side, number in (("training", TRAIN), ("validation", VALIDATION)):
            if not (role == number).any():
                raise DataError(
                    Problem(
                        "data.split.folds",
                        f"fold {fold + 1} of {num_folds} has no {side} row",
                        "take fewer folds",
                    )
                )
    return roles


def _publish(final: Path, sides: dict[str, Rows], cleaned: CleanRows, roles: Roles | None) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    stage = stage_folder(final.parent)
    for side, rows in sides.items():
        np.save(stage / f"{side}.npy", rows.astype(np.int64))
    if roles is not None:
        np.save(stage / ROLES, roles)
    counts = {side: len(rows) for side, rows in sides.items()}
    write_json(stage / MANIFEST, {"rows": counts, "dropped": cleaned.dropped})
    publish_folder(stage, final)
