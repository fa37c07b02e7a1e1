"""Batch inference and evaluation with Ray Data, from `model/` alone.

Each task reads row groups of the source, encodes them with the model's own transforms, scores
them and writes one Parquet file: the source's columns, and the predictions beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.catalog.catalog import Catalog, read_catalog
from heliostat.catalog.read import read_groups
from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared
from heliostat.data.sequences import SequenceReader
from heliostat.data.text import as_text
from heliostat.data.units import Unit, run_units, units_of
from heliostat.errors import DataError, Problem, UnavailableError
from heliostat.models.predictor import TextPredictor
from heliostat.plan.inputs import FITTING
from heliostat.spec.metrics import metrics_of
from heliostat.spec.model import GptModel
from heliostat.storage.files import create_bytes
from heliostat.storage.folders import new_file, publish_folder, remove_folder, stage_folder
from heliostat.storage.objects import ObjectPath, StorePath, as_path
from heliostat.train.artifact import TrainedModel, load_model
from heliostat.train.metrics import compute_metrics, predicted_classes
from heliostat.train.scoring import SEQUENCES_AT_ONCE, text_values

PREDICTION = "prediction"
SUCCESS = "_SUCCESS"


def predict(
    model: StorePath, source: str | tuple[str, ...], target: StorePath, num_tasks: int,
    progress: Callable[[int, int], None],
) -> dict[str, int]:  # fmt: skip
    """Write predictions for every row of `source` into the new folder `target`; in an object store
    the empty file `_SUCCESS` comes last.

    Returns the number of rows, and of those without a prediction because the model's job
    drops rows like them.

    Raises:
        DataError: a column is missing, a page is damaged, or `target` exists.
    """
    if target.exists():
        raise DataError(Problem("--out", f"`{target}` exists", "name a new folder"))
    if load_model(model).task == "language":
        what = "writing texts with a language model is not available yet"
        remedy = "`heliostat export RUN --format huggingface` writes it for `transformers`"
        raise UnavailableError(Problem("predict", what, remedy))
    catalog = _checked_catalog(model, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target if isinstance(target, ObjectPath) else stage_folder(target.parent)
    work = partial(_predict_unit, model=_absolute(model), folder=str(stage))
    rows = missing = 0
    try:
        for result in run_units(units_of(catalog), work, num_tasks):
            rows, missing = rows + result["rows"], missing + result["missing"]
            progress(rows, catalog.num_rows)
    except BaseException:
        remove_folder(stage)
        raise
    if isinstance(target, ObjectPath):
        create_bytes(target / SUCCESS, b"")
    elif isinstance(stage, Path) and not publish_folder(stage, target, SUCCESS):
        raise DataError(Problem("--out", f"`{target}` appeared while predicting"))
    return {"rows": rows, "without_prediction": missing}


def evaluate(
    model: StorePath,
    source: str | tuple[str, ...],
    num_tasks: int,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, float], dict[str, int]]:
    """All metrics of the task on `source`, exact over all its rows, and how many rows counted.

    Raises:
        DataError: a column is missing, a page is damaged, or a class is new to the model.
    """
    trained = load_model(model)
    catalog = _checked_catalog(model, source, _scored_columns(trained))
    if trained.task == "language":
        return _evaluate_texts(model, catalog, num_tasks, progress)
    work = partial(_score_unit, model=_absolute(model))
    parts: dict[int, tuple[npt.NDArray[np.float64], ...]] = {}
    for result in _watched(run_units(units_of(catalog), work, num_tasks), catalog, progress):
        columns = (result[key] for key in ("target", "scores", "weights"))
        parts[result["index"]] = tuple(np.array(column, np.float64) for column in columns)
    ordered = [parts[index] for index in sorted(parts)]
    target, scores, weights = (np.concatenate(column) for column in zip(*ordered, strict=True))
    usable = ~np.isnan(target) & ~np.isnan(scores.reshape(len(scores), -1)).any(1)
    usable &= ~np.isnan(weights)
    if not usable.any():
        raise DataError(Problem("--data", "no row has both a target and a prediction"))
    names = metrics_of(trained.task)
    metrics = compute_metrics(trained.task, names, target[usable], scores[usable], weights[usable])
    return metrics, {"rows": len(target), "evaluated": int(usable.sum())}


def _evaluate_texts(
    model: StorePath, catalog: Catalog, num_tasks: int, progress: Callable[[int, int], None]
) -> tuple[dict[str, float], dict[str, int]]:
    """The metrics of a language model: each unit's documents are packed by themselves."""
    work = partial(_score_texts, model=_absolute(model))
    results = list(_watched(run_units(units_of(catalog), work, num_tasks), catalog, progress))
    results.sort(key=lambda result: int(result["index"]))  # sums in one order have the same bits
    learned = sum(result["documents"] for result in results)
    if not learned:
        raise DataError(Problem("--data", "no row holds a text"))
    sums = np.sum([result["sums"] for result in results], axis=0)
    return text_values(sums), {"rows": catalog.num_rows, "evaluated": learned}


def _watched(
    results: Iterator[dict[str, Any]], catalog: Catalog, progress: Callable[[int, int], None]
) -> Iterator[dict[str, Any]]:
    """The results as they come, with word of how many rows are done."""
    done = 0
    for result in results:
        done += result["rows"]
        progress(done, catalog.num_rows)
        yield result


def _score_texts(unit: Unit, model: str) -> dict[str, Any]:
    trained = _model(model)
    assert isinstance(trained.predictor, TextPredictor) and trained.target is not None
    assert isinstance(trained.spec, GptModel)
    columns = (*trained.packed_columns, trained.target)
    names = [column.name for column in columns]
    table = pa.concat_tables(piece.table for piece in read_groups(unit.groups, names))
    packed = unpack(pack_table(table, columns)[0])
    reader = SequenceReader(
        Prepared.of_batch(packed), np.arange(table.num_rows), trained.target.name,
        trained.inputs[0].name if trained.inputs else None, trained.shape.end,
        trained.spec.max_tokens,
    )  # fmt: skip
    sums = np.zeros(3)
    for start in range(0, reader.num_sequences, SEQUENCES_AT_ONCE):
        every = np.arange(start, min(start + SEQUENCES_AT_ONCE, reader.num_sequences))
        read = reader.encoded(every, every)
        own = trained.predictor.token_sums(read.inputs.categories, read.target, read.weights)
        sums += own.sum(0)
    return {"rows": table.num_rows, "documents": reader.num_documents, "sums": sums.tolist()}


def _checked_catalog(
    model: StorePath, source: str | tuple[str, ...], needed: Sequence[str] = ()
) -> Catalog:
    catalog = read_catalog(source)
    trained = load_model(model)
    problems = []
    for column in trained.inputs:
        for name in [packed.name for packed in column.packed]:
            found = catalog.columns.get(name)
            if found is None:
                message = f"has no column `{name}`, an input of the model"
                problems.append(Problem(catalog.source, message))
            elif column.kind == "custom":
                continue  # its class sees what it gets
            elif found.kind not in FITTING[column.kind] or found.size != column.size:
                message = f"column `{name}` is {found.type}; the model needs a {column.kind}"
                message += f" of {column.size} places" if column.size else ""
                problems.append(Problem(catalog.source, message))
    problems += [
        Problem(catalog.source, f"has no column `{name}`, the target or its weight")
        for name in needed
        if name not in catalog.columns
    ]
    if problems:
        raise DataError(problems)
    return catalog


def _absolute(model: StorePath) -> str:
    """As every process of the cluster finds it."""
    return str(model.resolve() if isinstance(model, Path) else model)


@lru_cache(maxsize=1)
def _model(folder: str) -> TrainedModel:
    """The model, loaded once a process."""
    return load_model(as_path(folder))


def _predict_unit(unit: Unit, model: str, folder: str) -> dict[str, Any]:
    trained = _model(model)
    table = pa.concat_tables(piece.table for piece in read_groups(unit.groups, None))
    scores = _scores(trained, table)
    for name, values in predictions(trained, scores).items():
        table = table.append_column(name, values)
    with new_file(as_path(folder) / f"part-{unit.index:05d}.parquet") as file:
        pq.write_table(table, file)
    missing = np.isnan(scores.reshape(len(scores), -1)).any(1)
    return {"rows": table.num_rows, "missing": int(missing.sum())}


def _score_unit(unit: Unit, model: str) -> dict[str, Any]:
    trained = _model(model)
    names = sorted({c.name for c in trained.packed_columns} | set(_scored_columns(trained)))
    table = pa.concat_tables(piece.table for piece in read_groups(unit.groups, names))
    truth = _truth(trained, table[trained.encoder.target.name], unit)
    return {
        "rows": table.num_rows,
        "target": truth.tolist(),
        "scores": _scores(trained, table).tolist(),
        "weights": _weights(trained, table, truth).tolist(),
    }


def _scored_columns(trained: TrainedModel) -> list[str]:
    """What scoring needs besides the inputs."""
    target = trained.encoder.target
    return [target.name] + ([target.weight] if target.weight is not None else [])


def _weights(
    trained: TrainedModel, table: pa.Table, truth: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What each row counts, as in training; NaN where its weight or class is missing."""
    target = trained.encoder.target
    weights = np.ones(len(truth))
    if target.weight is not None:
        weights = _as_numbers(table[target.weight])
    if target.class_weights:
        known = ~np.isnan(truth)
        weights[known] *= np.array(target.class_weights)[truth[known].astype(np.int64)]
    return weights


def _as_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.array(numbers, np.float64)


def _scores(trained: TrainedModel, table: pa.Table) -> npt.NDArray[np.float64]:
    batch, _ = pack_table(table, trained.packed_columns)
    return trained.scores(unpack(batch))


def _truth(trained: TrainedModel, column: pa.ChunkedArray, unit: Unit) -> npt.NDArray[np.float64]:
    """The target as numbers or class codes; NaN where it is missing."""
    classes = trained.encoder.target.classes
    if not classes:
        return _as_numbers(column)
    index: Mapping[str | None, float] = {name: float(i) for i, name in enumerate(classes)}
    codes = []
    for value in as_text(column).to_pylist():
        if value is not None and value not in index:
            place = unit.groups[0].location
            raise DataError(
                Problem(place, f"holds class `{value}`, which the model was not trained on")
            )
        codes.append(float("nan") if value is None else index[value])
    return np.array(codes, np.float64)


def predictions(trained: TrainedModel, scores: npt.NDArray[np.float64]) -> dict[str, pa.Array]:
    """The columns that `predict` adds: `prediction` in the target's own type, and for classes
    their probabilities. Null where the model makes no prediction.
    """
    missing = np.isnan(scores.reshape(len(scores), -1)).any(1)
    target = trained.encoder.target
    if not target.classes:
        return {PREDICTION: pa.array(scores, mask=missing)}
    names = pa.array(list(target.classes))
    codes = pa.array(predicted_classes(np.nan_to_num(scores)), mask=missing)
    columns = {PREDICTION: names.take(codes).cast(_arrow_type(target.source_type))}
    if scores.ndim == 1:
        columns["probability"] = pa.array(scores, mask=missing)
    else:
        for i, name in enumerate(target.classes):
            columns[f"probability_{name}"] = pa.array(scores[:, i], mask=missing)
    return columns


def _arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a class column; text where it has no simple name."""
    simple = {"bool": pa.bool_(), "string": pa.string(), "large_string": pa.large_string()}
    if name in simple:
        return simple[name]
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return pa.string()
