"""Prepare a source once: raw columns packed into Arrow shards, manifest last.

The copy depends on the source, its rows, columns and their forms only, so that one copy serves
every split, seed, cleaning, scaling and model. Each finished unit leaves a note beside its
shards: a preparation that was killed goes on from there. One process prepares a copy at a
time; others that want it wait.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from heliostat.catalog.read import Piece, read_groups
from heliostat.data.clean import check_target, merged_counts
from heliostat.data.duplicates import content_hashes
from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import MANIFEST, Prepared
from heliostat.data.sieve import Sieve, sieve_of
from heliostat.data.times import NONE, TRAIN
from heliostat.data.units import ROWS_PER_UNIT, Unit, run_units, units_of
from heliostat.errors import ArtifactError, DataError, Problem
from heliostat.plan.inputs import PackedColumn
from heliostat.plan.plan import Plan
from heliostat.storage.clean import LEASES
from heliostat.storage.files import FORMAT, encode_json, read_json, touch, understood, write_json
from heliostat.storage.folders import (
    lasting_stage,
    new_file,
    publish_folder,
    remove_files,
    remove_folder,
)
from heliostat.storage.lease import Lease
from heliostat.storage.objects import StorePath, as_path, matching

WAIT_SECONDS = 0.5
Progress = Callable[[int, int], None]
Shard = dict[str, Any]


def prepare(
    plan: Plan,
    folder: StorePath,
    num_tasks: int,
    progress: Progress,
    waiting: Callable[[], None] = lambda: None,
) -> Prepared:
    """The prepared copy of the plan's source under `folder`, made now if it is not there.

    `progress(rows done, rows in all)` is called as shards are finished, and while another
    process prepares the same copy; `num_tasks` bounds how many units are packed at once. `waiting`
    is called in between, and may raise.

    Raises:
        DataError: a page is damaged, or the source changed after it was listed.
    """
    final = folder / plan.prepared_digest
    folder.mkdir(parents=True, exist_ok=True)
    while not (final / MANIFEST).exists():
        lease = Lease.acquire(folder / LEASES / plan.prepared_digest)
        if lease is None:
            progress(0, plan.catalog.num_rows)
            waiting()
            time.sleep(WAIT_SECONDS)
            continue
        with lease.kept():
            if not (final / MANIFEST).exists():
                try:
                    _prepare(plan, final, num_tasks, progress, waiting)
                except DataError:  # only another source can mend it, and that is another copy
                    remove_folder(lasting_stage(final))
                    raise
    touch(final / MANIFEST)  # `clean` goes by when a copy was last opened
    return Prepared.open(final)


def is_prepared(plan: Plan, folder: StorePath) -> bool:
    """Whether the copy is already there."""
    return (folder / plan.prepared_digest / MANIFEST).exists()


def _prepare(
    plan: Plan,
    final: StorePath,
    num_tasks: int,
    progress: Progress,
    waiting: Callable[[], None],
) -> None:
    stage = lasting_stage(final)
    finished = _pack_all(plan, stage, num_tasks, progress, waiting)
    shards = [shard for unit in finished for shard in unit["shards"]]
    filtered = sum(unit["filtered"] for unit in finished)
    rows = sum(shard["rows"] for shard in shards)
    stream = _stream_facts(plan, finished)
    found = rows + filtered + sum(unit["left"] for unit in finished)
    if found != plan.catalog.num_rows:
        message = f"gave {found:,} rows, its files list {plan.catalog.num_rows:,}"
        raise DataError(Problem(plan.catalog.source, message, "did it change? Run again"))
    remove_files([_note(stage, unit) for unit in units_of(plan.catalog)])
    manifest = {
        "digest": plan.prepared_digest,
        "data_digest": plan.catalog.digest,
        "columns": [[column.name, column.form] for column in plan.columns.packed],
        "filter": plan.job.spec.data.filter,
        "rows": rows,
        "filtered": filtered,
        "stream": stream,
        "source": {"location": plan.catalog.source, "listing": plan.catalog.listing},
        "shards": shards,
    }
    write_json(stage / MANIFEST, manifest)
    if isinstance(stage, Path):
        publish_folder(stage, final, MANIFEST)


def _stream_facts(plan: Plan, finished: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the epochs of a stream must know; None of a source that is copied whole."""
    data = plan.job.spec.data
    if data.ingest != "stream":
        return None
    dropped = merged_counts(unit["dropped"] for unit in finished)
    check_target(dropped, plan.columns, data.clean)
    return {
        "groups": [list(vars(group).values()) for group in plan.catalog.row_groups],
        "train_rows": [count for unit in finished for count in unit["train_rows"]],
        "dropped": dropped,
        "bounds": list(sieve_of(plan).bounds),
        "schema": base64.b64encode(plan.catalog.schema.serialize()).decode(),
    }


def _pack_all(
    plan: Plan,
    stage: StorePath,
    num_tasks: int,
    progress: Progress,
    waiting: Callable[[], None],
) -> list[dict[str, Any]]:
    units = units_of(plan.catalog)
    noted = {path.name for path in matching(stage, "unit-*.json")}
    finished = {
        unit.index: result
        for unit in units
        if _note(stage, unit).name in noted and (result := _finished(stage, unit))
    }
    left = [unit for unit in units if unit.index not in finished]
    patience = plan.job.spec.limits.start_minutes * 60
    work = partial(
        _pack_unit,
        schema=plan.catalog.schema,
        columns=plan.columns.packed,
        row_filter=plan.job.spec.data.filter,
        folder=str(stage),
        sieve=sieve_of(plan) if plan.job.spec.data.ingest == "stream" else None,
        hashed=plan.job.spec.data.clean.duplicates == "drop",
    )
    done = sum(unit.num_rows for unit in units) - sum(unit.num_rows for unit in left)
    results = run_units(left, work, num_tasks, patience, waiting) if left else iter(())
    for result in results:
        index = result.pop("index")
        finished[index] = result
        done += units[index].num_rows
        progress(done, plan.catalog.num_rows)
    return [finished[unit.index] for unit in units]


def _note(folder: StorePath, unit: Unit) -> StorePath:
    return folder / f"unit-{unit.index:06d}.json"


def _finished(stage: StorePath, unit: Unit) -> dict[str, Any] | None:
    """What an earlier attempt left of a unit, if it is whole."""
    try:
        result = read_json(_note(stage, unit))
        with understood(_note(stage, unit)):
            sizes = {shard["file"]: shard["bytes"] for shard in result["shards"]}
    except ArtifactError:
        return None
    for name, size in sizes.items():
        try:
            if (stage / name).stat().st_size != size:
                return None
        except FileNotFoundError:
            return None
    return result


def _pack_unit(
    unit: Unit,
    schema: pa.Schema,
    columns: tuple[PackedColumn, ...],
    row_filter: str | None,
    folder: str,
    sieve: Sieve | None,
    hashed: bool,
) -> dict[str, Any]:
    """Write a unit's shards, and then its note."""
    names = sorted({column.name for column in columns})
    shards: list[Shard] = []
    filtered = 0
    sifted = _Sifted(unit, columns, sieve)
    read = read_groups(unit.groups, schema, names, row_filter)
    for pieces in _shard_sized(read if sieve is None else map(sifted.take, read)):
        filtered += sum(piece.num_read - len(piece.rows) for piece in pieces)
        full = [piece for piece in pieces if len(piece.rows)]
        if full:
            place = as_path(folder) / f"shard-{unit.index:06d}-{len(shards)}"
            gaps = row_filter is not None or sieve is not None
            shard, batch = _write_shard(_with(place, ".arrow"), full, columns, gaps)
            shards.append(shard | (_write_hashes(_with(place, ".npy"), batch) if hashed else {}))
    result = {"format": FORMAT, "shards": shards, "filtered": filtered} | sifted.facts()
    with new_file(_note(as_path(folder), unit)) as note:
        note.write_bytes(encode_json(result))
    return result


class _Sifted:
    """Takes out of a unit's pieces what a stream does not keep, and counts it."""

    def __init__(self, unit: Unit, columns: tuple[PackedColumn, ...], sieve: Sieve | None) -> None:
        self.columns, self.sieve = columns, sieve
        self._train_rows = {(group.path, group.index): 0 for group in unit.groups}
        self._dropped: list[dict[str, int]] = []
        self._left = 0

    def take(self, piece: Piece) -> Piece:
        """The piece without the rows that are left in the source."""
        assert self.sieve is not None
        if len(piece.rows) == 0:
            return piece
        packed = unpack(pack_table(piece.table, self.columns)[0])
        sides, dropped = self.sieve.sides(packed, piece.path, piece.rows)
        train = sides == TRAIN
        self._train_rows[piece.path, piece.group] += int(train.sum())
        self._dropped.append(dropped)
        keep = np.where(train, self.sieve.sampled(piece.path, piece.rows), sides != NONE)
        self._left += int((~keep).sum())
        rows, unread = piece.rows[keep], int((~keep).sum())
        return replace(
            piece, table=piece.table.filter(keep), rows=rows, num_read=piece.num_read - unread
        )

    def facts(self) -> dict[str, Any]:
        """For the unit's note."""
        counts = list(self._train_rows.values())
        return {
            "train_rows": counts,
            "dropped": merged_counts(self._dropped),
            "left": self._left,
        }


def _shard_sized(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    run: list[Piece] = []
    rows = 0
    for piece in pieces:
        run.append(piece)
        rows += len(piece.rows)
        if rows >= ROWS_PER_UNIT:
            yield run
            run, rows = [], 0
    if run:
        yield run


def _with(place: StorePath, suffix: str) -> StorePath:
    return place.parent / f"{place.name}{suffix}"


def _write_shard(
    path: StorePath, pieces: Sequence[Piece], columns: tuple[PackedColumn, ...], gaps: bool
) -> tuple[Shard, pa.RecordBatch]:
    rows = np.concatenate([piece.rows for piece in pieces])
    table = pa.concat_tables(piece.table for piece in pieces)
    batch, infinite = pack_table(table, columns, rows if gaps else None)
    with new_file(path) as file:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with file.open("rb") as handle:
            # Begin to write it to disk and go on: publishing waits for what is left.
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        num_bytes = file.stat().st_size
    shard = {
        "file": path.name,
        "rows": batch.num_rows,
        "bytes": num_bytes,
        "segments": _segments(pieces, gaps),
        "infinite": infinite,
    }
    return shard, batch


def _write_hashes(path: StorePath, batch: pa.RecordBatch) -> Shard:
    """Beside a shard, a hash of what each of its rows holds."""
    with new_file(path) as file, file.open("wb") as sink:
        np.save(sink, content_hashes(unpack(batch)))
    return {"hashes": path.name}


def _segments(pieces: Sequence[Piece], gaps: bool) -> list[list[str | int]]:
    """[path, first row, rows] of each stretch of one file; with gaps, the shard keeps rows."""
    segments: list[list[Any]] = []
    for piece in pieces:
        first = int(piece.rows[0])
        last = segments[-1] if segments else None
        if last and last[0] == piece.path and (gaps or last[1] + last[2] == first):
            last[2] += len(piece.rows)
        else:
            segments.append([piece.path, first, len(piece.rows)])
    return segments
