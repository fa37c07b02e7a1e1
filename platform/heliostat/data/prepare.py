"""Prepare a source once: raw columns packed into Arrow shards, manifest last.

The copy depends on the source, its columns and their forms only, so that one copy serves every
split, seed, cleaning, scaling and model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.catalog.catalog import Catalog, RowGroup
from heliostat.data.pack import pack_table
from heliostat.data.prepared import MANIFEST, Prepared
from heliostat.data.units import Unit, run_units, units_of
from heliostat.errors import DataError, Problem
from heliostat.plan.columns import PackedColumn
from heliostat.plan.plan import Plan
from heliostat.storage.files import publish_folder, stage_folder, write_json


def prepare(
    plan: Plan, folder: Path, num_tasks: int, progress: Callable[[int, int], None]
) -> Prepared:
    """The prepared copy of the plan's source under `folder`, made now if it is not there.

    `progress(rows done, rows in all)` is called as shards are finished; `num_tasks` bounds how
    many are packed at once.

    Raises:
        DataError: a page is damaged, or the source changed after it was listed.
    """
    final = folder / plan.prepared_digest
    if (final / MANIFEST).exists():
        return Prepared.open(final)
    folder.mkdir(parents=True, exist_ok=True)
    stage = stage_folder(folder)
    patience = plan.job.spec.limits.start_minutes * 60
    try:
        shards = _pack_all(plan.catalog, plan.columns.packed, stage, num_tasks, patience, progress)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    write_json(stage / MANIFEST, _manifest(plan, shards))
    publish_folder(stage, final)
    return Prepared.open(final)


def is_prepared(plan: Plan, folder: Path) -> bool:
    """Whether the copy is already there."""
    return (folder / plan.prepared_digest / MANIFEST).exists()


def _pack_all(
    catalog: Catalog,
    columns: Sequence[PackedColumn],
    stage: Path,
    num_tasks: int,
    patience_seconds: float,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    done = 0
    work = partial(_pack_unit, columns=tuple(columns), folder=str(stage))
    for result in run_units(units_of(catalog), work, num_tasks, patience_seconds):
        results[result.pop("index")] = result
        done += result["rows"]
        progress(done, catalog.num_rows)
    return [results[index] for index in sorted(results)]


def _pack_unit(unit: Unit, columns: tuple[PackedColumn, ...], folder: str) -> dict[str, Any]:
    names = sorted({column.name for column in columns})
    tables = [read_group(group, names) for group in unit.groups]
    batch, infinite = pack_table(pa.concat_tables(tables), columns)
    path = Path(folder) / f"shard-{unit.index:05d}.arrow"
    temporary = path.with_suffix(".part")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    temporary.rename(path)
    segments = [[group.path, group.first_row, group.num_rows] for group in unit.groups]
    return {"file": path.name, "rows": batch.num_rows, "segments": segments, "infinite": infinite}


def read_group(group: RowGroup, names: Sequence[str] | None) -> pa.Table:
    """One row group of the source; `names` None reads every column.

    Raises:
        DataError: a page is damaged, or the file is not the one that was listed.
    """
    place = f"{group.location}, row group {group.index}"
    try:
        with pq.ParquetFile(group.location) as file:
            table = file.read_row_group(group.index, columns=names, use_threads=False)
    except FileNotFoundError:
        raise DataError(Problem(place, "the file has gone since it was listed")) from None
    except (pa.ArrowException, OSError, IndexError) as error:
        raise DataError(Problem(place, f"is damaged: {error}")) from error
    if table.num_rows != group.num_rows:
        raise DataError(
            Problem(place, f"has {table.num_rows} rows, its footer said {group.num_rows}")
        )
    return table


def _manifest(plan: Plan, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "digest": plan.prepared_digest,
        "data_digest": plan.catalog.digest,
        "columns": [[column.name, column.form] for column in plan.columns.packed],
        "rows": sum(shard["rows"] for shard in shards),
        "source": {"location": plan.catalog.source, "listing": plan.catalog.listing},
        "shards": shards,
    }
