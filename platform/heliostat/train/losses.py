"""Losses as weighted sums over rows: the loop divides by the weight of the global batch, so that
the mean does not depend on how rows are shared among ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

LossSum = Callable[[Tensor, Tensor, Tensor], Tensor]
AUTO = {"regression": "mse", "binary": "binary_cross_entropy", "multiclass": "cross_entropy"}


def loss_sum(name: str, task: str) -> LossSum:
    """The loss called `name` (`auto`: the task's usual one) as (outputs, targets, weights) ->
    sum of weight x loss.

    `outputs` is [rows, outputs] before any squashing; `targets` and `weights` [rows].
    """
    loss = LOSSES[AUTO[task] if name == "auto" else name]
    return lambda outputs, targets, weights: (loss(outputs, targets) * weights).sum()


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[:, 0], targets, reduction="none")


def _mae(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(outputs[:, 0], targets, reduction="none")


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs[:, 0], targets, reduction="none")


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        outputs[:, 0], targets.to(outputs.dtype), reduction="none"
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "binary_cross_entropy": _binary,
    "cross_entropy": _cross_entropy,
}
