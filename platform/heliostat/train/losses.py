"""Losses as sums over rows: the loop divides by the global number of rows, so that the mean
does not depend on how rows are shared among ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

LossSum = Callable[[Tensor, Tensor], Tensor]
AUTO = {"regression": "mse", "binary": "binary_cross_entropy", "multiclass": "cross_entropy"}


def loss_sum(name: str, task: str) -> LossSum:
    """The loss called `name` (`auto`: the task's usual one) as (outputs, targets) -> sum.

    `outputs` is [rows, outputs] before any squashing; `targets` [rows].
    """
    return LOSSES[AUTO[task] if name == "auto" else name]


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[:, 0], targets, reduction="sum")


def _mae(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(outputs[:, 0], targets, reduction="sum")


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs[:, 0], targets, reduction="sum")


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        outputs[:, 0], targets.to(outputs.dtype), reduction="sum"
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


LOSSES: dict[str, LossSum] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "binary_cross_entropy": _binary,
    "cross_entropy": _cross_entropy,
}
