"""Batch inference from `model/` alone: by Ray Data, or in this process without Ray.

Each task reads row groups of the source, encodes them with the model's own transforms, scores
them and writes one Parquet file: the source's columns, and the predictions beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.catalog.catalog import Catalog
from heliostat.catalog.parquet import writable
from heliostat.data.shares import Counts
from heliostat.data.units import Unit, run_units, units_of
from heliostat.errors import DataError, Problem, UnavailableError
from heliostat.storage.files import create_bytes
from heliostat.storage.folders import new_file, publish_folder, remove_folder, stage_folder
from heliostat.storage.objects import ObjectPath, StorePath, as_path
from heliostat.train.artifact import TrainedModel
from heliostat.train.outputs import no_prediction, output_columns, output_names
from heliostat.train.scoring_source import (
    Batch,
    Scoring,
    model_in,
    needed_columns,
    one_thread,
    open_scoring,
    read_batches,
    scored,
)

SUCCESS = "_SUCCESS"
Progress = Callable[[int, int], None]


def open_prediction(
    model: StorePath, source: str | tuple[str, ...], target: StorePath
) -> tuple[Scoring, StorePath]:
    """What is to be scored, and where the predictions go: a new folder, as every process of a
    cluster finds it.

    Raises:
        DataError: a column is missing or of another type, has the name of one that `predict` adds,
            or `target` exists.
        UnavailableError: the model writes texts.
    """
    target = target.absolute() if isinstance(target, Path) else target
    if target.exists():
        raise DataError(Problem("--out", f"`{target}` exists", "name a new folder"))
    scoring = open_scoring(model, source, with_target=False)
    trained = scoring.trained
    if trained.task == "language":
        what = "writing texts with a language model is not available yet"
        remedy = "`heliostat export RUN --format huggingface` writes it for `transformers`"
        raise UnavailableError(Problem("predict", what, remedy))
    added = output_names(trained.encoder.target.classes, trained.shape.num_outputs)
    taken = [name for name in added if name in scoring.catalog.schema.names]
    if taken:
        what = f"has a column `{taken[0]}`, which is the name of one that `predict` adds"
        remedy = "rename the column, or leave it out"
        raise DataError(Problem(scoring.catalog.source, what, remedy))
    return scoring, target


def copy_notes(catalog: Catalog) -> Iterator[str]:
    """Which columns of a source do not lie beside the predictions as they are."""
    kept = set(writable(catalog.schema).names)
    for name, column in catalog.columns.items():
        why = f"({column.problem})" if column.problem else f"({column.type})"
        if name not in kept:
            yield f"column `{name}` {why} is left out of the predictions"
        elif column.problem and column.type != str(catalog.schema.field(name).type):
            yield f"column `{name}` {why} is written as text"


def predict(
    scoring: Scoring, target: StorePath, num_tasks: int, progress: Progress
) -> tuple[dict[str, int], Counts]:
    """Write predictions for every row into the new folder `target`; in an object store the empty
    file `_SUCCESS` comes last. `num_tasks` 0: this process scores, and Ray is not needed.

    Returns the number of rows, and of those without a prediction because the model's job
    drops rows like them; and what was missing or new to the model.

    Raises:
        DataError: a page is damaged, or a value is not the same in the type the model learned.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target if isinstance(target, ObjectPath) else stage_folder(target.parent)
    try:
        counts, found = _predict_into(stage, scoring, num_tasks, progress)
    except BaseException:
        remove_folder(stage)
        raise
    if isinstance(target, ObjectPath):
        create_bytes(target / SUCCESS, b"")
    elif isinstance(stage, Path) and not publish_folder(stage, target, SUCCESS):
        raise DataError(Problem("--out", f"`{target}` appeared while predicting"))
    return counts, found


def _predict_into(
    stage: StorePath, scoring: Scoring, num_tasks: int, progress: Progress
) -> tuple[dict[str, int], Counts]:
    schema = writable(scoring.catalog.schema)
    units = [unit for unit in units_of(scoring.catalog) if unit.num_rows]
    if not units:
        empty = schema.empty_table()
        names = [column.name for column in needed_columns(scoring.trained, with_target=False)]
        _write_part(stage, 0, scoring.trained, [Batch(empty, empty.select(names))])
    work = partial(_predict_unit, schema=schema, model=scoring.model, folder=str(stage))
    rows = missing = 0
    found = Counts()
    with one_thread():
        for result in run_units(units, work, num_tasks, num_threads=scoring.num_threads):
            rows, missing = rows + result["rows"], missing + result["missing"]
            found.add(result["rows"], *result["counts"])
            progress(rows, scoring.catalog.num_rows)
    return {"rows": rows, "without_prediction": missing}, found


def _predict_unit(unit: Unit, schema: pa.Schema, model: str, folder: str) -> dict[str, Any]:
    trained = model_in(model)
    with one_thread():
        batches = read_batches(unit, trained, schema, every_column=True)
        return _write_part(as_path(folder), unit.index, trained, batches)


def _write_part(
    folder: StorePath, index: int, trained: TrainedModel, batches: Iterable[Batch]
) -> dict[str, Any]:
    """Score batches into one file of the folder, and count."""
    missing, found = 0, Counts()
    with new_file(folder / f"part-{index:05d}.parquet") as file, ExitStack() as stack:
        writer = None
        for batch in batches:
            scores = scored(trained, batch.learned, found)
            missing += int(no_prediction(scores).sum())
            table = batch.table
            for name, values in output_columns(trained.encoder.target, scores).items():
                table = table.append_column(name, values)
            writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table)
    return {"rows": found.num_rows, "missing": missing, "counts": [found.missing, found.unseen]}
