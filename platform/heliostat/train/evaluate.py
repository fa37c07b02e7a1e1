"""All metrics of a model on other data: by Ray Data, or in this process without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.data.pack import pack_table, unpack
from heliostat.data.prepared import Prepared
from heliostat.data.sequences import SequenceReader
from heliostat.data.shares import Counts
from heliostat.data.text import as_text
from heliostat.data.units import Unit, run_units, units_of
from heliostat.errors import DataError, Problem
from heliostat.models.predictor import TextPredictor
from heliostat.spec.metrics import metrics_of
from heliostat.spec.model import GptModel
from heliostat.train.artifact import TrainedModel
from heliostat.train.metrics import compute_metrics
from heliostat.train.scoring import SEQUENCES_AT_ONCE, text_values
from heliostat.train.scoring_source import Scoring, model_in, one_thread, read_batches, scored

Progress = Callable[[int, int], None]


def evaluate(
    scoring: Scoring, num_tasks: int, progress: Progress
) -> tuple[dict[str, float], dict[str, int], Counts]:
    """All metrics of the task on a source, exact over all its rows; how many rows counted; and what
    was missing or new to the model. `num_tasks` 0: this process scores, and Ray is not needed.

    Raises:
        DataError: a page is damaged, or a class or a value is not one that the model learned.
    """
    if not scoring.catalog.num_rows:
        raise DataError(Problem(scoring.catalog.source, "holds no row to evaluate on"))
    if scoring.trained.task == "language":
        return *_evaluate_texts(scoring, num_tasks, progress), Counts()
    work = partial(_score_unit, schema=scoring.catalog.schema, model=scoring.model)
    parts: dict[int, tuple[npt.NDArray[np.float64], ...]] = {}
    found = Counts()
    for result in _results(scoring, work, num_tasks, progress):
        columns = (result[key] for key in ("target", "scores", "weights"))
        parts[result["index"]] = tuple(np.array(column, np.float64) for column in columns)
        found.add(result["rows"], *result["counts"])
    ordered = [parts[index] for index in sorted(parts)]
    target, scores, weights = (np.concatenate(column) for column in zip(*ordered, strict=True))
    usable = ~np.isnan(target) & ~np.isnan(scores.reshape(len(scores), -1)).any(1)
    usable &= ~np.isnan(weights)
    if not usable.any():
        message = "no row has both a target and a prediction"
        raise DataError(Problem(scoring.catalog.source, message))
    task = scoring.trained.task
    names = metrics_of(task)
    metrics = compute_metrics(task, names, target[usable], scores[usable], weights[usable])
    return metrics, {"rows": len(target), "evaluated": int(usable.sum())}, found


def _evaluate_texts(
    scoring: Scoring, num_tasks: int, progress: Progress
) -> tuple[dict[str, float], dict[str, int]]:
    """The metrics of a language model: each unit's documents are packed by themselves."""
    work = partial(_score_texts, schema=scoring.catalog.schema, model=scoring.model)
    results = list(_results(scoring, work, num_tasks, progress))
    results.sort(key=lambda result: int(result["index"]))  # sums in one order have the same bits
    learned = sum(result["documents"] for result in results)
    if not learned:
        raise DataError(Problem(scoring.catalog.source, "no row holds a text"))
    sums = np.sum([result["sums"] for result in results], axis=0)
    return text_values(sums), {"rows": scoring.catalog.num_rows, "evaluated": learned}


def _results(
    scoring: Scoring, work: Callable[[Unit], dict[str, Any]], num_tasks: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    """The units' results as they come, with word of how many rows are done."""
    done, units = 0, [unit for unit in units_of(scoring.catalog) if unit.num_rows]
    with one_thread():
        for result in run_units(units, work, num_tasks, num_threads=scoring.num_threads):
            done += result["rows"]
            progress(done, scoring.catalog.num_rows)
            yield result


def _score_texts(unit: Unit, schema: pa.Schema, model: str) -> dict[str, Any]:
    trained = model_in(model)
    assert isinstance(trained.predictor, TextPredictor) and trained.target is not None
    assert isinstance(trained.spec, GptModel)
    batches = read_batches(unit, trained, schema, with_target=True)
    table = pa.concat_tables(batch.learned for batch in batches)
    packed = unpack(pack_table(table, (*trained.packed_columns, trained.target))[0])
    reader = SequenceReader(
        Prepared.of_batch(packed), np.arange(table.num_rows), trained.target.name,
        trained.inputs[0].name if trained.inputs else None, trained.shape.end,
        trained.spec.max_tokens,
    )  # fmt: skip
    sums = np.zeros(3)
    with one_thread():
        for start in range(0, reader.num_sequences, SEQUENCES_AT_ONCE):
            every = np.arange(start, min(start + SEQUENCES_AT_ONCE, reader.num_sequences))
            read = reader.encoded(every, every)
            own = trained.predictor.token_sums(read.inputs.categories, read.target, read.weights)
            sums += own.sum(0)
    return {"rows": table.num_rows, "documents": reader.num_documents, "sums": sums.tolist()}


def _score_unit(unit: Unit, schema: pa.Schema, model: str) -> dict[str, Any]:
    trained = model_in(model)
    found = Counts()
    columns: list[list[float]] = [[], [], []]
    with one_thread():
        for batch in read_batches(unit, trained, schema, with_target=True):
            truth = _truth(trained, batch.learned[trained.encoder.target.name], batch.place)
            weights = _weights(trained, batch.learned, truth)
            scores = scored(trained, batch.learned, found)
            for column, values in zip(columns, (truth, scores, weights), strict=True):
                column.extend(values.tolist())
    target, scores_, weights_ = columns
    return {
        "rows": len(target), "target": target, "scores": scores_, "weights": weights_,
        "counts": [found.missing, found.unseen],
    }  # fmt: skip


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


def _truth(trained: TrainedModel, column: pa.ChunkedArray, place: str) -> npt.NDArray[np.float64]:
    """The target as numbers or class codes; NaN where it is missing."""
    classes = trained.encoder.target.classes
    if not classes:
        return _as_numbers(column)
    index: Mapping[str | None, float] = {name: float(i) for i, name in enumerate(classes)}
    codes = []
    for value in as_text(column).to_pylist():
        if value is not None and value not in index:
            message = f"holds class `{value}`, which the model was not trained on"
            known = f"its classes are {', '.join(classes[:8])}{'...' if len(classes) > 8 else ''}"
            raise DataError(Problem(place, message, known))
        codes.append(float("nan") if value is None else index[value])
    return np.array(codes, np.float64)
