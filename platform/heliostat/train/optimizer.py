"""AdamW and SGD by the kernels that torch's own optimizers call.

`torch.optim` itself brings in torch's compiler with its first optimizer, more than a second of
every worker's start, and takes each step through hooks, profiler marks and a sort by device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults


class Optimizer:
    """Updates parameters in place. A group is `params` of one device and type, with their `lr` and
    `weight_decay`; `state` holds what `torch.optim` would, by the same names. A parameter without
    a gradient is left alone.
    """

    def __init__(
        self,
        name: Literal["adamw", "sgd"],
        groups: Sequence[dict[str, Any]],
        momentum: float,
    ) -> None:
        self.param_groups = list(groups)
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._momentum = momentum
        self._update = self._adamw if name == "adamw" else self._sgd

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters, [p.grad for p in parameters])

    def _adamw(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        """Loshchilov and Hutter, 2019."""
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": _zeros_like(parameter),
                    "exp_avg_sq": _zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            parameters, gradients, [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], steps, lr=group["lr"],
            beta1=BETAS[0], beta2=BETAS[1], weight_decay=group["weight_decay"], eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def _sgd(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None:
        """With momentum and coupled decay."""
        buffers: list[Tensor] = []
        if self._momentum:
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = {"momentum_buffer": _zeros_like(parameter)}
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._fused_sgd_(
            parameters, gradients, buffers, weight_decay=group["weight_decay"],
            momentum=self._momentum, lr=group["lr"], dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        )  # fmt: skip


def _zeros_like(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, memory_format=torch.preserve_format)
