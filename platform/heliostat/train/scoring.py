"""Score a side of the data with a predictor, over all ranks, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.data.reader import rank_slice
from heliostat.models.predictor import JointPredictor, Predictor, Scores, TextPredictor
from heliostat.parallel.world import World, gather
from heliostat.plan.counts import MOST_TRAIN_SEQUENCES, SIDES
from heliostat.spec.job import JobSpec
from heliostat.spec.metrics import metrics_of
from heliostat.train.assignment import OpenData
from heliostat.train.metrics import compute_metrics, confusion

ROWS_AT_ONCE = 65_536
SEQUENCES_AT_ONCE = 256
MOST_EXPONENT = 700.0
HISTOGRAM_BINS = 60
ERROR_GROUPS, LEAST_GROUP_ROWS = 20, 20


def side_scores(data: OpenData, side: str, predictor: Predictor, world: World) -> Scores:
    """Scores of every row of a side, in row order, the same bits on every rank."""
    rows = data.rows(side)
    mine = rank_slice(len(rows), world.rank, world.size)
    part = score_rows(data, _as_many(rows, mine, predictor, world), predictor)
    return gather(world, part[: mine.stop - mine.start], mine.start, len(rows))


def _as_many(
    names: npt.NDArray[np.int64], mine: slice, predictor: Predictor, world: World
) -> npt.NDArray[np.int64]:
    """This rank's of `names`; where ranks must score together, and another has more, one again."""
    own = names[mine]
    if not (isinstance(predictor, JointPredictor) and predictor.is_joint):
        return own
    return np.concatenate([own, np.repeat(names[:1], -(-len(names) // world.size) - len(own))])


def score_rows(data: OpenData, rows: npt.NDArray[np.int64], predictor: Predictor) -> Scores:
    """Scores of `rows`, in the target's own units."""
    parts = []
    for start in range(0, max(len(rows), 1), ROWS_AT_ONCE):
        inputs = data.reader.inputs(rows[start : start + ROWS_AT_ONCE])
        parts.append(predictor.scores(inputs.numbers, inputs.categories))
    target = data.encoder.target
    scores = np.concatenate(parts)
    return scores if target.classes else scores * target.scale + target.offset


def text_metrics(data: OpenData, side: str, predictor: Predictor, world: World) -> dict[str, float]:
    """All metrics of a language model over the tokens of a side (of training, over some of its
    sequences, evenly spread): the mean negative logarithm of
    the probability of the true token, its exponential, and how often that token is likeliest.
    """
    assert isinstance(predictor, TextPredictor)
    reader = data.sequences[side]
    count = reader.num_sequences
    if side == "train":
        count = min(count, MOST_TRAIN_SEQUENCES)
    chosen = np.arange(count) * reader.num_sequences // max(1, count)
    mine = rank_slice(count, world.rank, world.size)
    own = _as_many(chosen, mine, predictor, world)
    parts = [np.empty((0, 3))]
    for start in range(0, len(own), SEQUENCES_AT_ONCE):
        names = own[start : start + SEQUENCES_AT_ONCE]
        read = reader.encoded(names, names)
        parts.append(predictor.token_sums(read.inputs.categories, read.target, read.weights))
    sums = gather(world, np.concatenate(parts)[: mine.stop - mine.start], mine.start, count)
    return text_values(sums.sum(0))


def text_values(sums: Scores) -> dict[str, float]:
    """The metrics of a language model from the sums that `TextPredictor` gives, over all rows."""
    loss, hits, tokens = sums.tolist()
    if not tokens or not math.isfinite(loss):
        return dict.fromkeys(metrics_of("language"), float("nan"))
    mean = loss / tokens
    perplexity = math.exp(mean) if mean < MOST_EXPONENT else math.inf
    values = {"log_loss": mean, "perplexity": perplexity, "accuracy": hits / tokens}
    return {name: values[name] for name in metrics_of("language")}


def evaluated_metrics(spec: JobSpec) -> tuple[str, ...]:
    """What is computed while training goes on: the objective, what decides between equal scores,
    and what the job asks for.
    """
    ties = () if spec.tie_metric is None else (spec.tie_metric,)
    return tuple(dict.fromkeys((spec.objective_metric, *spec.metrics, *ties)))


def validation_metrics(
    spec: JobSpec, data: OpenData, predictor: Predictor, world: World
) -> dict[str, float]:
    """The metrics that training goes by."""
    if data.sequences:
        values = text_metrics(data, "validation", predictor, world)
        return {name: values[name] for name in evaluated_metrics(spec)}
    scores = side_scores(data, "validation", predictor, world)
    rows = data.rows("validation")
    target, weights = data.reader.targets(rows), data.reader.weights(rows)
    return compute_metrics(spec.data.task, evaluated_metrics(spec), target, scores, weights)


def final_metrics(
    spec: JobSpec, data: OpenData, predictor: Predictor, world: World,
    sides: Sequence[str] = SIDES, known: Mapping[str, Scores] = MappingProxyType({}),
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:  # fmt: skip
    """All metrics of the task on each side that has rows, and what the report draws; `known` holds
    the scores of sides that need not be scored again.
    """
    metrics: dict[str, dict[str, float]] = {}
    details: dict[str, Any] = {}
    for side in sides:
        if data.sequences and len(data.rows(side)):
            metrics[side] = text_metrics(data, side, predictor, world)
        elif len(data.rows(side)):
            scores = known[side] if side in known else side_scores(data, side, predictor, world)
            metrics[side], details[side] = side_metrics(spec, data, side, scores)
    return metrics, details


def side_metrics(
    spec: JobSpec, data: OpenData, side: str, scores: Scores
) -> tuple[dict[str, float], dict[str, Any]]:
    """All metrics of the task from the scores of every row of a side, and what is drawn of them."""
    rows = data.rows(side)
    target, weights = data.reader.targets(rows), data.reader.weights(rows)
    names = metrics_of(spec.data.task)
    metrics = compute_metrics(spec.data.task, names, target, scores, weights)
    details = dict(picture(spec.data.task, target, scores, data.encoder.target.classes))
    if side == "validation":
        details["standard_error"] = standard_error(spec, target, scores, weights)
    return metrics, details


def standard_error(
    spec: JobSpec, target: npt.NDArray[Any], scores: Scores, weights: npt.NDArray[Any]
) -> float | None:
    """How far the objective may be off because these rows and no others were scored: the spread of
    its values on random groups of them, over the square root of the number of groups (Efron and
    Tibshirani, 1993, chapter 6: the error of a mean of independent parts). None of too few rows.
    """
    if len(target) < ERROR_GROUPS * LEAST_GROUP_ROWS:
        return None
    groups = np.random.default_rng(spec.seed).permutation(len(target)) % ERROR_GROUPS
    name = spec.objective_metric
    values = [
        compute_metrics(spec.data.task, [name], target[own], scores[own], weights[own])[name]
        for own in (groups == group for group in range(ERROR_GROUPS))
    ]
    error = float(np.std(values, ddof=1) / math.sqrt(ERROR_GROUPS))
    return error if math.isfinite(error) else None


def picture(
    task: str, target: npt.NDArray[Any], scores: Scores, classes: Sequence[str]
) -> Mapping[str, Any]:
    """Small numbers to draw: confusion counts, or a histogram of residuals."""
    if task != "regression":
        counts = confusion(target, scores)
        return {"classes": list(classes), "confusion": counts.tolist()}
    residuals = scores - target
    if not np.isfinite(residuals).all():
        return {}
    low, high = np.quantile(residuals, [0.005, 0.995])
    counts, edges = np.histogram(residuals, HISTOGRAM_BINS, (low, max(high, low + 1e-9)))
    return {"residuals": {"counts": counts.tolist(), "edges": edges.tolist()}}
