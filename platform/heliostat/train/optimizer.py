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
        count = torch.zeros((), dtype=torch.float32, device=parameters[0].device)
        for parameter in parameters:
            if parameter not in self.state:
                moments = _zeros_like(parameter), _zeros_like(parameter)
                self.state[parameter] = {
                    "step": count, "exp_avg": moments[0], "exp_avg_sq": moments[1]
                }  # fmt: skip
        states = [self.state[parameter] for parameter in parameters]
        steps = self._counted(group, states)
        torch._fused_adamw_(
            parameters, gradients, [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], steps, lr=group["lr"],
            beta1=BETAS[0], beta2=BETAS[1], weight_decay=group["weight_decay"], eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def _counted(self, group: dict[str, Any], states: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        """The counts of the parameters' steps, this one among them. Those of a group that have
        always been updated together share one, which is faster to add to than one for each.
        """
        first = states[0]["step"]
        if len(states) == len(group["params"]) and all(each["step"] is first for each in states):
            first.add_(1)
            return [first] * len(states)
        for state in (self.state[p] for p in group["params"] if p in self.state):
            state["step"] = state["step"].clone()
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        return steps

    def share_counts(self) -> None:
        """Let those share a count that have the same: of states that were loaded."""
        for group in self.param_groups:
            states = [self.state.get(parameter, {}) for parameter in group["params"]]
            counts = [state["step"] for state in states if "step" in state]
            if len(counts) == len(states) and len({float(count) for count in counts}) == 1:
                for state in states:
                    state["step"] = counts[0]

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
