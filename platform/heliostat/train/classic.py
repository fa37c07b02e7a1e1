"""Fit a scikit-learn estimator on one worker."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from heliostat.data.reader import check_classes
from heliostat.errors import Problem, UserError
from heliostat.models.classic import (
    EstimatorPredictor,
    build_estimator,
    design_matrix,
    design_width,
)
from heliostat.parallel.world import SoloWorld
from heliostat.plan.memory import MemoryNeed, format_bytes, machine_memory_bytes, memory_need
from heliostat.train.artifact import save_model
from heliostat.train.assignment import Assignment, OpenData
from heliostat.train.events import Event, Finished, Validated
from heliostat.train.scoring import evaluated_metrics, final_metrics


def train_classic(assignment: Assignment, data: OpenData) -> Iterator[Event]:
    """Fit, score, and publish the model.

    Raises:
        UserError: with the categories' real sizes known, the fit would not hold in memory.
    """
    spec = assignment.spec
    rows = np.asarray(data.rows("train"))
    check_classes(data.reader, rows, "train")
    width = design_width(data.shape, spec.model.encoding)
    _check_memory(assignment, memory_need(spec, len(rows), width))
    inputs = data.reader.inputs(rows)
    matrix = design_matrix(
        inputs.numbers, inputs.categories, data.shape.cardinalities, spec.model.encoding
    )
    threads = max(1, int(spec.scale.resources.cpu))
    estimator = build_estimator(spec.model, spec.data.task, spec.seed, threads)
    with warnings.catch_warnings():
        # A limit of iterations that the job set is no news; the metrics tell.
        warnings.simplefilter("ignore", ConvergenceWarning)
        weights = {"sample_weight": data.reader.weights(rows)} if data.reader.is_weighted else {}
        estimator.fit(matrix, data.reader.targets(rows), **weights)
    predictor = EstimatorPredictor(estimator, data.shape, spec.model.encoding)
    save_model(assignment, data, predictor)
    sides = ("train", "validation", "test") if assignment.final else ("validation",)
    metrics, details = final_metrics(spec, data, predictor, SoloWorld(), sides)
    validation = metrics.get("validation", {})
    score = validation.get(spec.objective_metric, float("nan"))
    chosen = {name: validation.get(name, float("nan")) for name in evaluated_metrics(spec)}
    if validation:
        yield Validated(1, 1.0, 1, chosen, score, True)
    yield Finished(1, metrics, score, details, progress=1)


def _check_memory(assignment: Assignment, need: MemoryNeed) -> None:
    given = assignment.spec.scale.resources.memory
    limit = given if given is not None else machine_memory_bytes()
    if limit is not None and need.num_bytes > limit:
        raise UserError(
            Problem(
                "model.kind",
                f"`{assignment.spec.model.kind}` holds {need.sum} = "
                f"{format_bytes(need.num_bytes)}; "
                f"the worker has {format_bytes(limit)}",
                "ignore the widest categories, or take xgboost or mlp",
            )
        )
