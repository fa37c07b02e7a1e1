"""Metrics from whole columns of scores: exact, since every rank sees the same gathered bits.

Precision, recall and F1 speak of the positive class for two classes, and are macro averages
for more. An area under the curve is one-against-rest, macro. What is not defined (a curve over
one class, recall where no row is positive) is NaN here and null in files. The formulas are a few
lines of NumPy each, tested against scikit-learn, whose import would cost every worker a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def compute_metrics(
    task: str, names: Sequence[str], target: Array, scores: Array, weights: Array | None = None
) -> dict[str, float]:
    """The named metrics. `target` is [rows] numbers or class codes, `scores` [rows] or
    [rows, classes] as `Predictor.scores` gives them; a row counts as much as its weight.
    """
    weights = np.ones(len(target)) if weights is None else weights
    if not weights.sum() > 0 or not np.isfinite(scores).all():
        return dict.fromkeys(names, float("nan"))
    return (_regression if task == "regression" else _classes)(names, target, scores, weights)


def _regression(
    names: Sequence[str], target: Array, scores: Array, weights: Array
) -> dict[str, float]:
    errors, total = scores - target, weights.sum()
    squares = float((errors**2 * weights).sum())
    mean = (target * weights).sum() / total
    counted = target[weights > 0]
    varies = counted.min() < counted.max()  # what is left of rounding is no spread
    spread = float(((target - mean) ** 2 * weights).sum()) if varies else 0.0
    values = {
        "mse": squares / total,
        "rmse": (squares / total) ** 0.5,
        "mae": (np.abs(errors) * weights).sum() / total,
        "r2": 1 - squares / spread if spread else float("nan"),
    }
    return {name: float(values[name]) for name in names}


def _classes(
    names: Sequence[str], target: Array, scores: Array, weights: Array
) -> dict[str, float]:
    result: dict[str, float] = {}
    counted = [name for name in names if name not in ("auc", "log_loss")]
    if counted:
        counts = confusion(target, scores, weights)
        result |= {name: _from_counts(name, counts, scores.ndim == 1) for name in counted}
    if "auc" in names:
        result["auc"] = _auc(target, scores, weights)
    if "log_loss" in names:
        result["log_loss"] = float((log_losses(target, scores) * weights).sum() / weights.sum())
    return {name: result[name] for name in names}


def confusion(target: Array, scores: Array, weights: Array | None = None) -> Array:
    """[classes, classes]: rows (or their weight) by true class down, predicted class across."""
    size = 2 if scores.ndim == 1 else scores.shape[1]
    cells = target.astype(np.int64) * size + predicted_classes(scores)
    return np.bincount(cells, weights, minlength=size * size).reshape(size, size)


def predicted_classes(scores: Array) -> npt.NDArray[np.int64]:
    """The class of each row: above one half, or the largest."""
    if scores.ndim == 1:
        return (scores > 0.5).astype(np.int64)
    return scores.argmax(1).astype(np.int64)


def log_losses(target: Array, scores: Array) -> Array:
    """Negative log probability of each row's true class, clipped at float64's resolution."""
    if scores.ndim == 1:
        chosen = np.where(target == 1, scores, 1 - scores)
    else:
        chosen = scores[np.arange(len(target)), target.astype(np.int64)]
    losses: Array = -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1))
    return losses


def _auc(target: Array, scores: Array, weights: Array) -> float:
    if scores.ndim == 1:
        return area_under_curve(target == 1, scores, weights)
    areas = [area_under_curve(target == k, scores[:, k], weights) for k in range(scores.shape[1])]
    return float(np.mean(areas))


def area_under_curve(positive: npt.NDArray[np.bool_], scores: Array, weights: Array) -> float:
    """The probability that a positive row scores above a negative one, ties counted half: the
    Mann-Whitney statistic (Hanley and McNeil, 1982), rows drawn by weight. NaN without both.
    """
    _, group = np.unique(scores, return_inverse=True)
    gained = np.bincount(group, weights * positive)
    lost = np.bincount(group, weights * ~positive)
    pairs = gained.sum() * lost.sum()
    if not pairs:
        return float("nan")
    below = np.cumsum(lost) - lost / 2
    return float((gained * below).sum() / pairs)


def _from_counts(name: str, counts: npt.NDArray[np.int64], binary: bool) -> float:
    hits = np.diag(counts).astype(np.float64)
    actual, predicted = counts.sum(1), counts.sum(0)
    if name == "accuracy":
        return float(hits.sum() / counts.sum())
    precision = _share(hits, predicted)
    recall = _share(hits, actual)
    f1 = _share(2 * hits, actual + predicted)
    if name == "f1_weighted":
        return float((f1 * actual).sum() / actual.sum())
    values = {"precision": precision, "recall": recall, "f1": f1, "f1_macro": f1}[name]
    if binary and name != "f1_macro":
        return float(values[1]) if actual[1] > 0 else float("nan")
    return float(values[(actual + predicted) > 0].mean())


def _share(part: Array, whole: Array) -> Array:
    """`part / whole`, and 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
