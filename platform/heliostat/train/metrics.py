"""Metrics from whole columns of scores: exact, since every rank sees the same gathered bits.

Precision, recall and F1 speak of the positive class for two classes, and are macro averages
for more. An area under the curve is one-against-rest, macro. What is not defined (a curve over
one class) is NaN here and null in files. The formulas are a few lines of NumPy each, tested
against scikit-learn, whose import would cost every worker a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def compute_metrics(
    task: str, names: Sequence[str], target: Array, scores: Array
) -> dict[str, float]:
    """The named metrics. `target` is [rows] numbers or class codes, `scores` [rows] or
    [rows, classes] as `Predictor.scores` gives them.
    """
    if len(target) == 0:
        return dict.fromkeys(names, float("nan"))
    if not np.isfinite(scores).all():
        return dict.fromkeys(names, float("nan"))
    return (_regression if task == "regression" else _classes)(names, target, scores)


def _regression(names: Sequence[str], target: Array, scores: Array) -> dict[str, float]:
    errors = scores - target
    squares = float((errors**2).sum())
    spread = float(((target - target.mean()) ** 2).sum())
    values = {
        "mse": squares / len(target),
        "rmse": (squares / len(target)) ** 0.5,
        "mae": float(np.abs(errors).mean()),
        "r2": 1 - squares / spread if spread else float("nan"),
    }
    return {name: values[name] for name in names}


def _classes(names: Sequence[str], target: Array, scores: Array) -> dict[str, float]:
    result: dict[str, float] = {}
    counted = [name for name in names if name not in ("auc", "log_loss")]
    if counted:
        counts = confusion(target, scores)
        result |= {name: _from_counts(name, counts, scores.ndim == 1) for name in counted}
    if "auc" in names:
        result["auc"] = _auc(target, scores)
    if "log_loss" in names:
        result["log_loss"] = log_loss(target, scores)
    return {name: result[name] for name in names}


def confusion(target: Array, scores: Array) -> npt.NDArray[np.int64]:
    """[classes, classes] counts: true class down, predicted class across."""
    size = 2 if scores.ndim == 1 else scores.shape[1]
    predicted = predicted_classes(scores)
    flat = np.bincount(target.astype(np.int64) * size + predicted, minlength=size * size)
    return flat.reshape(size, size).astype(np.int64)


def predicted_classes(scores: Array) -> npt.NDArray[np.int64]:
    """The class of each row: above one half, or the largest."""
    if scores.ndim == 1:
        return (scores > 0.5).astype(np.int64)
    return scores.argmax(1).astype(np.int64)


def log_loss(target: Array, scores: Array) -> float:
    """Mean negative log probability of the true class, clipped at float64's resolution."""
    if scores.ndim == 1:
        chosen = np.where(target == 1, scores, 1 - scores)
    else:
        chosen = scores[np.arange(len(target)), target.astype(np.int64)]
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1)).mean())


def _auc(target: Array, scores: Array) -> float:
    if scores.ndim == 1:
        return area_under_curve(target == 1, scores)
    areas = [area_under_curve(target == k, scores[:, k]) for k in range(scores.shape[1])]
    return float(np.mean(areas))


def area_under_curve(positive: npt.NDArray[np.bool_], scores: Array) -> float:
    """The probability that a positive row scores above a negative one, ties counted half: the
    Mann-Whitney statistic over ranks (Hanley and McNeil, 1982). NaN without both kinds.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = float(middle_ranks[group[positive]].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def _from_counts(name: str, counts: npt.NDArray[np.int64], binary: bool) -> float:
    hits = np.diag(counts).astype(np.float64)
    actual, predicted = counts.sum(1), counts.sum(0)
    if name == "accuracy":
        return float(hits.sum() / counts.sum())
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    if name == "f1_weighted":
        return float((f1 * actual).sum() / actual.sum())
    values = {"precision": precision, "recall": recall, "f1": f1, "f1_macro": f1}[name]
    if binary and name != "f1_macro":
        return float(values[1])
    return float(values[(actual + predicted) > 0].mean())
