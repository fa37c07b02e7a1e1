"""Losses as weighted sums over rows: the loop divides by the weight of the global batch, so that
the mean does not depend on how rows are shared among ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from heliostat.spec.train import LossSpec

LossSum = Callable[[Tensor, Tensor, Tensor], Tensor]
AUTO = {
    "regression": "mse",
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
    "language": "cross_entropy",
}


def loss_sum(spec: LossSpec, task: str) -> LossSum:
    """The loss that `spec` names (`auto`: the task's usual one) as (outputs, targets, weights) ->
    sum of weight x loss.

    `outputs` is [rows, outputs] before any squashing; `targets` and `weights` [rows].
    """
    if _name(spec, task) == "binary_cross_entropy":  # torch sums it itself, in fewer steps
        return partial(_binary_sum, spec)
    loss = row_losses(spec, task)
    if task == "language":  # a target and a weight for each token, not each row
        return lambda outputs, targets, weights: (
            loss(outputs.float().flatten(0, 1), targets.flatten()) @ weights.flatten()
        )
    return lambda outputs, targets, weights: loss(outputs.float(), targets) @ weights


def row_losses(spec: LossSpec, task: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of each row: (outputs, targets) -> [rows]."""
    return partial(LOSSES[_name(spec, task)], spec)


def _name(spec: LossSpec, task: str) -> str:
    name = AUTO[task] if spec.name == "auto" else spec.name
    return f"{task}_focal" if name == "focal" else name


def _mse(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[:, 0], targets, reduction="none")


def _mae(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(outputs[:, 0], targets, reduction="none")


def _huber(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs[:, 0], targets, reduction="none", delta=spec.delta)


def _quantile(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    """The pinball loss (Koenker and Bassett, 1978): its least is the conditional quantile."""
    under = targets - outputs[:, 0]
    return torch.maximum(spec.quantile * under, (spec.quantile - 1) * under)


def _poisson(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs are logarithms of rates."""
    return F.poisson_nll_loss(outputs[:, 0], targets, log_input=True, reduction="none")


def _binary(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = _smooth(spec, targets)
    return F.binary_cross_entropy_with_logits(outputs[:, 0], wanted, reduction="none")


def _binary_sum(spec: LossSpec, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    wanted = _smooth(spec, targets)
    outputs = outputs.float()
    return F.binary_cross_entropy_with_logits(outputs[:, 0], wanted, weights, reduction="sum")


def _smooth(spec: LossSpec, targets: Tensor) -> Tensor:
    wanted = targets.float()
    if not spec.label_smoothing:
        return wanted
    return wanted * (1 - spec.label_smoothing) + spec.label_smoothing / 2


def _cross_entropy(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=spec.label_smoothing)


def _binary_focal(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return _focused(spec, _binary(spec, outputs, targets))


def _multiclass_focal(spec: LossSpec, outputs: Tensor, targets: Tensor) -> Tensor:
    return _focused(spec, _cross_entropy(spec, outputs, targets))


def _focused(spec: LossSpec, loss: Tensor) -> Tensor:
    """(1 - p)^gamma times the cross entropy -log p (Lin et al., 2017)."""
    return (1 - torch.exp(-loss)) ** spec.gamma * loss


LOSSES: dict[str, Callable[[LossSpec, Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "quantile": _quantile,
    "poisson": _poisson,
    "binary_cross_entropy": _binary,
    "cross_entropy": _cross_entropy,
    "binary_focal": _binary_focal,
    "multiclass_focal": _multiclass_focal,
}
