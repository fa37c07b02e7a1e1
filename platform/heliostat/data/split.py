"""Which row is on which side: by row identity and seed alone, never by layout or workers.

Sides are told shard by shard and kept as files of row numbers, which workers map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.clean import CleanRows, clean_rows
from heliostat.data.folds import Roles, roles_of
from heliostat.data.hashing import Hashes, mix, value_hashes
from heliostat.data.labels import Kept, Labels, by_rank, by_row, by_value, times_of, value_sizes
from heliostat.data.prepared import Prepared
from heliostat.data.ranks import Counts
from heliostat.data.times import NONE, TEST, TRAIN, VALIDATION, sides_by_time
from heliostat.data.together import cause_of, remedy_of
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import Columns
from heliostat.plan.counts import SIDES, share_count
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
from heliostat.storage.files import read_json, take_room, understood, write_json
from heliostat.storage.folders import publish_folder, staged

Rows = npt.NDArray[np.int64]
PartLabels = npt.NDArray[np.int16]
MANIFEST, ROLES = "split.json", "roles.npy"
ROWS_AT_ONCE = 1 << 20
MOST_PACKED_FOLDS = 10


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
        with understood(folder):
            sides = {side: np.load(folder / f"{side}.npy", mmap_mode="r") for side in SIDES}
            roles = np.load(path, mmap_mode="r") if (path := folder / ROLES).exists() else None
            return cls(folder, sides, read_json(folder / MANIFEST)["dropped"], roles)

    def parts(self, num_rows: int) -> tuple[PartLabels, npt.NDArray[np.bool_]]:
        """A label for each of the copy's rows (-1: not for training), and whether fold f trains
        on the rows labelled p, [folds, labels]. Without folds there is one of each.
        """
        labels = np.full(num_rows, -1, np.int16)
        rows = self.sides["train"]
        if self.roles is None:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                labels[rows[start : start + ROWS_AT_ONCE]] = 0
            return labels, np.ones((1, 1), bool)
        kinds: dict[bytes, int] = {}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = np.asarray(self.roles[:, start : start + ROWS_AT_ONCE])
            labels[rows[start : start + ROWS_AT_ONCE]] = _kinds_of(block, kinds)
        columns = [np.frombuffer(kind, np.int8) for kind in kinds]
        return labels, np.stack(columns, 1) == TRAIN

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
        sides, cleaned = _assigned(prepared, columns, data, seed)
        _publish(final, prepared, columns, data, seed, sides, cleaned)
    return SplitRows.open(final)


def split_in_memory(prepared: Prepared, columns: Columns, data: DataSpec, seed: int) -> SplitRows:
    """The same split, kept nowhere.

    Raises:
        DataError: as `split_rows` does.
    """
    sides, cleaned = _assigned(prepared, columns, data, seed)
    rows = {side: np.flatnonzero(sides == number) for number, side in enumerate(SIDES)}
    roles = None
    if data.num_folds is not None:
        kept = Kept(prepared, sides == TRAIN)
        roles = np.concatenate(list(roles_of(kept, columns, data, seed, data.num_folds)), 1)
        _check_folds(roles, data.num_folds)
    return SplitRows(prepared.folder, rows, cleaned.dropped, roles)


def _assigned(
    prepared: Prepared, columns: Columns, data: DataSpec, seed: int
) -> tuple[npt.NDArray[np.int8], CleanRows]:
    """The side of every row, and which rows take part."""
    cleaned = clean_rows(prepared, columns, data.clean)
    sides = np.full(prepared.num_rows, NONE, np.int8)
    kept = Kept(prepared, cleaned.keep)
    kept.spread(_sides(kept, columns, data, seed), sides)
    counts = _counted(sides)
    if outside := len(kept) - int(counts[:NONE].sum()):
        cleaned.dropped["in a gap of the time split"] = outside
    _check_counts(kept, columns, data, counts, cleaned)
    if prepared.stream is not None:  # what it dropped never came here
        cleaned.dropped.update(prepared.stream.dropped)
    return sides, cleaned


def _split_digest(columns: Columns, data: DataSpec, seed: int) -> str:
    drops = sorted(column.name for column in columns.inputs if column.missing == "drop")
    include: Any = {"split": True, "clean": {"duplicates", "missing_target"}, "target": True}
    value = data.model_dump(mode="json", include=include | {"weight": True})
    return digest_of([value, drops, seed])


def _sides(kept: Kept, columns: Columns, data: DataSpec, seed: int) -> Labels:
    split = data.split
    if isinstance(split, TimeSplit):
        assert columns.split is not None
        return by_row(kept, sides_by_time(times_of(kept, columns.split), split))
    if isinstance(split, HashSplit):
        return by_value(kept, split.column, lambda values: hashed_sides(values, split, seed))
    if isinstance(split, GroupSplit):
        side_of = grouped_sides(value_sizes(kept, split.column), split, seed)
        return by_value(
            kept,
            split.column,
            lambda values: np.array([side_of.get(v, NONE) for v in values], np.int8),
        )
    if isinstance(split, ColumnSplit):
        _check_names(list(value_sizes(kept, split.column)), split)
        return by_value(kept, split.column, named_sides)
    if isinstance(split, SourceSplit):
        return _by_source(kept)
    assert isinstance(split, FractionSplit)
    if kept.prepared.stream is not None:
        return _by_bounds(kept, seed, kept.prepared.stream.bounds)
    classes = data.target if split.method == "stratified" else None
    return _ranked(by_rank(kept, seed, classes, lambda sizes: held_out(sizes, split)))


def _by_bounds(kept: Kept, seed: int, bounds: tuple[int, ...]) -> Labels:
    """As the whole source was parted, of which this copy holds few rows."""
    for index, _, mask in kept.shards():
        yield sides_by_hash(kept.prepared.shard_hashes(seed, index)[mask], bounds)


def sides_by_hash(hashes: Hashes, bounds: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The smallest hashes are for test, the next for validation, as `bounds` say."""
    test, held_out = bounds
    sides = np.full(len(hashes), TRAIN, np.int8)
    sides[hashes < np.uint64(held_out)] = VALIDATION
    sides[hashes < np.uint64(test)] = TEST
    return sides


def _counted(sides: npt.NDArray[np.int8]) -> Counts:
    """Rows of each side; `bincount` would widen all of them at once."""
    return np.array([np.count_nonzero(sides == side) for side in range(NONE + 1)], np.int64)


def _ranked(parts: Labels) -> Labels:
    """Part 0, the smallest hashes, is for test, part 1 for validation."""
    side_of = np.array([TEST, VALIDATION, TRAIN], np.int8)
    for part in parts:
        yield side_of[part]


def held_out(sizes: Counts, split: FractionSplit) -> Counts:
    """[classes, 2] rows for test and for validation: exact in all, one at most off in a class."""
    validation = 0.0 if split.folds is not None else split.validation
    test = _shares(sizes, split.test, sizes - 1)
    return np.stack(
        [test, np.minimum(_shares(sizes, validation, sizes - 1 - test), sizes - test)], 1
    )


def _shares(sizes: Counts, fraction: float, most: Counts) -> Counts:
    """Whole shares of each class that add up to the share of the whole (largest remainder), and
    are `most`, which leaves a row to train on, at most: but for as many as there is no other way.
    """
    total = share_count(int(sizes.sum()), fraction)
    exact = sizes * fraction
    shares = np.floor(exact).astype(np.int64)
    largest = np.lexsort((shares - exact, shares >= most))
    shares[largest[: total - int(shares.sum())]] += 1
    return shares


def hashed_sides(values: Any, split: HashSplit, seed: int) -> npt.NDArray[np.int8]:
    """By a hash of the column's value: the same value, the same side, today and tomorrow."""
    quantiles = (value_hashes(seed, values) >> np.uint64(11)).astype(np.float64) / 2**53
    validation = 0.0 if split.folds is not None else split.validation
    sides = np.full(len(values), TRAIN, np.int8)
    sides[quantiles < split.test + validation] = VALIDATION
    sides[quantiles < split.test] = TEST
    return sides


def grouped_sides(sizes: dict[str, int], split: GroupSplit, seed: int) -> dict[str | None, int]:
    """Whole groups in the order of their hashes: to test until that is nearest to its share,
    then to validation.
    """
    names = list(sizes)
    order = np.argsort(value_hashes(seed, names), kind="stable")
    filled = np.cumsum([0, *np.array(list(sizes.values()), np.int64)[order].tolist()])
    total = int(filled[-1])
    validation = 0.0 if split.folds is not None else split.validation
    test = _nearest(filled, share_count(total, split.test))
    until = max(test, _nearest(filled - filled[test], share_count(total, validation)))
    bounds = ((TEST, 0, test), (VALIDATION, test, until), (TRAIN, until, len(names)))
    return {names[place]: side for side, start, end in bounds for place in order[start:end]}


def _nearest(filled: Rows, count: int) -> int:
    """How many groups come nearest to `count` rows."""
    return int(np.argmin(np.abs(filled - count)))


def _check_names(values: list[str], split: ColumnSplit) -> None:
    for value in values:
        if value not in SIDES:
            raise DataError(
                Problem(
                    "data.split.column",
                    f"`{split.column}` holds `{value}`, which is no side",
                    f"one of: {', '.join(SIDES)}",
                )
            )


def named_sides(values: Any) -> npt.NDArray[np.int8]:
    """Values that name their side."""
    return np.array([SIDES.index(v) if v in SIDES else NONE for v in values], np.int8)


def _by_source(kept: Kept) -> Labels:
    """The side whose source the row's file belongs to."""
    for index, _, mask in kept.shards():
        segments = kept.prepared.segments[index]
        sides = [SIDES.index(segment.path.partition(":")[0]) for segment in segments]
        counts = [segment.num_rows for segment in segments]
        yield np.repeat(np.array(sides, np.int8), counts)[mask]


def _kinds_of(block: Roles, kinds: dict[bytes, int]) -> PartLabels:
    """Which kind of column of [folds, rows] each is; new kinds are added."""
    if len(block) <= MOST_PACKED_FOLDS:
        return _packed_kinds_of(block, kinds)
    keys = np.zeros(block.shape[1], np.uint64)
    for role in block:
        keys = mix(keys ^ role.astype(np.uint64))
    _, first, of_row = np.unique(keys, return_index=True, return_inverse=True)
    found = [kinds.setdefault(block[:, place].tobytes(), len(kinds)) for place in first]
    return np.array(found, np.int16)[of_row]


def _packed_kinds_of(block: Roles, kinds: dict[bytes, int]) -> PartLabels:
    """The same by a table of all that two bits a fold can say: no sorting."""
    codes = np.zeros(block.shape[1], np.int32)
    for fold, role in enumerate(block):
        codes |= role.astype(np.int32) << (2 * fold)
    table = np.zeros(4 ** len(block), np.int16)
    for code in np.flatnonzero(np.bincount(codes, minlength=len(table))).tolist():
        kind = bytes(code >> (2 * fold) & 3 for fold in range(len(block)))
        table[code] = kinds.setdefault(kind, len(kinds))
    return table[codes]


def _check_counts(
    kept: Kept, columns: Columns, data: DataSpec, counts: Counts, cleaned: CleanRows
) -> None:
    """No side that was asked for is empty, and every row is on a side or counted as dropped."""
    prepared = kept.prepared
    out, dropped = int(counts[:NONE].sum()), sum(cleaned.dropped.values())
    assert out + dropped == prepared.num_rows, (out, dropped, prepared.num_rows)
    has_folds = data.num_folds is not None
    for side, count in zip(SIDES, counts, strict=False):
        wanted = side == "train" or getattr(data.split, side, 0) not in (0, 0.0)
        if wanted and not (side == "validation" and has_folds) and count == 0:
            raise DataError(
                Problem(
                    "data.split",
                    f"the {side} side is empty: {prepared.num_rows - dropped:,} rows take part, "
                    f"{dropped:,} were dropped in cleaning{cause_of(kept, columns, data)}",
                    remedy_of(data),
                )
            )


def _publish(
    final: Path,
    prepared: Prepared,
    columns: Columns,
    data: DataSpec,
    seed: int,
    sides: npt.NDArray[np.int8],
    cleaned: CleanRows,
) -> None:
    with staged(final.parent) as stage:
        _write(stage, prepared, columns, data, seed, sides, cleaned)
        publish_folder(stage, final, MANIFEST)


def _write(
    stage: Path,
    prepared: Prepared,
    columns: Columns,
    data: DataSpec,
    seed: int,
    sides: npt.NDArray[np.int8],
    cleaned: CleanRows,
) -> None:
    counts = _counted(sides)
    for number, side in enumerate(SIDES):
        path, count = stage / f"{side}.npy", int(counts[number])
        _write_rows(path, count, prepared, sides == number)
    num_folds = data.num_folds
    if num_folds is not None:
        kept = Kept(prepared, sides == TRAIN)
        shape = (num_folds, int(counts[TRAIN]))
        roles = np.lib.format.open_memmap(stage / ROLES, "w+", np.int8, shape)
        take_room(stage / ROLES)
        at = 0
        for own in roles_of(kept, columns, data, seed, num_folds):
            roles[:, at : at + own.shape[1]] = own
            at += own.shape[1]
        _check_folds(roles, num_folds)
    rows = {side: int(count) for side, count in zip(SIDES, counts, strict=False)}
    write_json(stage / MANIFEST, {"rows": rows, "dropped": cleaned.dropped})


def _write_rows(path: Path, count: int, prepared: Prepared, mask: npt.NDArray[np.bool_]) -> None:
    if count == 0:
        np.save(path, np.empty(0, np.int64))  # an empty file cannot be mapped to be written
        return
    rows = np.lib.format.open_memmap(path, "w+", np.int64, (count,))
    take_room(path)
    at = 0
    for _, start, end in prepared.spans():
        own = np.flatnonzero(mask[start:end]) + start
        rows[at : at + len(own)] = own
        at += len(own)


def _check_folds(roles: Roles, num_folds: int) -> None:
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
