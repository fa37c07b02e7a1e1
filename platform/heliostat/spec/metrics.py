"""The names of metrics, the tasks they belong to, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Goal = Literal["min", "max"]
CLASSES = ("binary", "multiclass")


@dataclass(frozen=True)
class Metric:
    """`goal` says which way is better; `tasks` where it means something; `needs` what rows must
    hold for it to exist: every class, the positive one of two, or two different numbers.
    """

    goal: Goal
    tasks: tuple[str, ...]
    needs: Literal["", "classes", "positives", "spread"] = ""


METRICS: dict[str, Metric] = {
    "mse": Metric("min", ("regression",)),
    "rmse": Metric("min", ("regression",)),
    "mae": Metric("min", ("regression",)),
    "r2": Metric("max", ("regression",), "spread"),
    "accuracy": Metric("max", (*CLASSES, "language")),
    "precision": Metric("max", CLASSES, "positives"),
    "recall": Metric("max", CLASSES, "positives"),
    "f1": Metric("max", CLASSES, "positives"),
    "f1_macro": Metric("max", CLASSES),
    "f1_weighted": Metric("max", CLASSES),
    "auc": Metric("max", CLASSES, "classes"),
    "log_loss": Metric("min", (*CLASSES, "language")),
    "perplexity": Metric("min", ("language",)),
}

TIE_BREAKER = "log_loss"  # tells apart what counts of rows and ranks take for equal
DEFAULT_OBJECTIVE = {
    "regression": "rmse",
    "binary": "auc",
    "multiclass": "accuracy",
    "language": "log_loss",
}


def metrics_of(task: str) -> tuple[str, ...]:
    """Every metric that means something for `task`, in a fixed order."""
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)
