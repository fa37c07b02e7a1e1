"""The loss of a language model, some tokens at a time: its logits can take more memory than all
else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.parallel.parts import is_part
from heliostat.plan.memory import MOST_LOGITS

Project = Callable[[Tensor], Tensor]
LossSum = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TokenLoss:
    """The sum of weight x loss of [rows, tokens] of targets and weights; `sum_of` computes it from
    logits, targets and weights.
    """

    sum_of: LossSum
    targets: Tensor
    weights: Tensor

    def of(
        self, x: Tensor, project: Project, parameters: Sequence[nn.Parameter], num_outputs: int,
        compiles: bool,
    ) -> Tensor:  # fmt: skip
        """The loss of `x` [rows, tokens, width], which `project` makes logits of with
        `parameters`; in pieces, if they are more than `MOST_LOGITS`.
        """
        at_once = max(1, MOST_LOGITS // num_outputs)
        is_cut = any(is_part(parameter) for parameter in parameters)
        if x.shape[0] * x.shape[1] <= at_once or is_cut:
            return _projected(project, self.sum_of, x, self.targets, self.weights)
        projected = _compiled() if compiles else _projected

        def piece(x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            return projected(project, self.sum_of, x[None], targets[None], weights[None])

        flat = x.flatten(0, 1), self.targets.flatten(), self.weights.flatten()
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        loss: Tensor = _InPieces.apply(piece, at_once, *flat, *trained)  # type: ignore[no-untyped-call]
        return loss


def _projected(
    project: Project, sum_of: LossSum, x: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    logits = project(x)
    with torch.autocast(x.device.type, enabled=False):  # sums are float32
        return sum_of(logits, targets, weights)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_projected)


class _InPieces(torch.autograd.Function):
    """A sum of the losses of pieces. Each is followed by its backward pass at once, so that no
    logits stay, and none are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, piece: LossSum, at_once: int, x: Tensor, targets: Tensor, weights: Tensor,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        """Over [tokens, width], [tokens] and [tokens]."""
        total = torch.zeros((), device=x.device)
        slopes = [torch.zeros_like(parameter) for parameter in parameters]
        of_x = torch.empty_like(x)
        for start in range(0, len(x), at_once):
            part = slice(start, start + at_once)
            own = x[part].detach().requires_grad_()
            with torch.enable_grad():
                loss = piece(own, targets[part], weights[part])
            of_x[part], *others = torch.autograd.grad(loss, [own, *parameters])
            for slope, other in zip(slopes, others, strict=True):
                slope += other
            total += loss.detach()
        ctx.save_for_backward(of_x, *slopes)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Of a sum that counts `slopes[0]` times."""
        found = [saved * slopes[0] for saved in ctx.saved_tensors]
        return None, None, found[0], None, None, *found[1:]
