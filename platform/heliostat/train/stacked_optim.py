"""Optimizers of stacked models: every model's weights lie in one row, which is updated by its own
settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from heliostat.spec.train import OptimizerSpec
from heliostat.train.optim import settings_of
from heliostat.train.optimizer import BETAS, EPSILON

_Settings = tuple[tuple[float, float], ...]  # (rate, decay) of each model


@dataclass(frozen=True)
class _Part:
    """A model's run of weights with the same settings; all tensors are views of its row."""

    row: int
    rate: float
    decay: float
    weights: Tensor
    gradient: Tensor
    moments: tuple[Tensor, Tensor]
    steps: Tensor


class StackedOptimizer:
    """AdamW or SGD over `model`, whose parameters are [models, ...]; all of one name."""

    def __init__(
        self, specs: Sequence[OptimizerSpec], clip_norms: Sequence[float | None], model: nn.Module
    ) -> None:
        self._specs = specs
        self.rates = [spec.learning_rate for spec in specs]
        self._runs = runs = self._lay_out(model)
        # To start a kernel takes a GPU longer than to update a small model.
        self.at_once = self._weights.is_cuda
        self._factors: Sequence[float] = ()
        self._rates = self._weights.new_zeros(0)
        self._gradient = torch.zeros_like(self._weights)
        self._gradients = [
            self._gradient[:, columns].view(len(specs), *shape)
            for _, columns, shape in self._layout
        ]
        self._moments = [torch.zeros_like(self._weights) for _ in range(2)]
        limits = [math.inf if norm is None else norm for norm in clip_norms]
        self._clips = any(norm is not None for norm in clip_norms)
        self._limits = self._weights.new_tensor(limits)
        self._steps = self._weights.new_zeros(len(specs))
        self._parts = [
            self._part(row, columns, *own)
            for settings, columns in runs.items()
            for row, own in enumerate(settings)
        ]

    def step(self, loss: Tensor, factors: Sequence[float]) -> None:
        """One update by the gradient of `loss`, each model's rate times its factor."""
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            torch._foreach_copy_(self._gradients, list(gradients))
            if self._clips:
                norms = torch.linalg.vector_norm(self._gradient, dim=1)
                self._gradient.mul_((self._limits / (norms + 1e-6)).clamp(max=1.0)[:, None])
            self._steps += 1
            if self.at_once:
                self._update_at_once(factors)
                return
            update = self._adamw if self._specs[0].name == "adamw" else self._sgd
            for part in self._parts:
                update(part, part.rate * factors[part.row])

    def norms(self) -> list[float]:
        """The norm of each model's last gradient."""
        values: list[float] = torch.linalg.vector_norm(self._gradient, dim=1).tolist()
        return values

    def state_of(self, place: int) -> dict[str, Tensor]:
        """A model's state, as its own optimizer would hold it."""
        keys = ("exp_avg", "exp_avg_sq") if self._specs[0].name == "adamw" else ("momentum_buffer",)
        state = {
            f"{name}.{key}": moment[place, columns].view(shape).cpu().clone()
            for name, columns, shape in self._layout
            for key, moment in zip(keys, self._moments, strict=False)
        }
        if self._specs[0].name == "adamw":
            state |= {f"{n}.step": self._steps[place].cpu().clone() for n, _, _ in self._layout}
        return state

    def load(self, states: Sequence[Mapping[str, Tensor]], step: int) -> None:
        """Take over what each model's own optimizer held at `step`."""
        self._steps.fill_(step)
        for place, state in enumerate(states):
            for name, columns, _ in self._layout:
                for number, keys in enumerate((("exp_avg", "momentum_buffer"), ("exp_avg_sq",))):
                    for key in keys:
                        if (value := state.get(f"{name}.{key}")) is not None:
                            self._moments[number][place, columns] = value.flatten().to(
                                self._weights.device
                            )

    def _lay_out(self, model: nn.Module) -> Mapping[_Settings, slice]:
        """Move the parameters into one row a model, those with the same settings side by side;
        where each such run lies.
        """
        named = dict(model.named_parameters())
        settings = {
            name: tuple(settings_of(spec, name, parameter[0]) for spec in self._specs)
            for name, parameter in named.items()
        }
        order = sorted(named, key=lambda name: list(settings.values()).index(settings[name]))
        self._parameters = [named[name] for name in order]
        flat = [parameter.detach().flatten(1) for parameter in self._parameters]
        self._weights = torch.cat(flat, 1)
        runs: dict[_Settings, slice] = {}
        self._layout: list[tuple[str, slice, torch.Size]] = []
        start = 0
        for name, parameter in zip(order, self._parameters, strict=True):
            columns = slice(start, start + parameter[0].numel())
            parameter.data = self._weights[:, columns].view(parameter.shape)
            self._layout.append((name, columns, parameter.shape[1:]))
            first = runs.get(settings[name], columns)
            runs[settings[name]] = slice(first.start, columns.stop)
            start = columns.stop
        return runs

    def _part(self, row: int, columns: slice, rate: float, decay: float) -> _Part:
        first, second = (moment[row, columns] for moment in self._moments)
        own = self._weights[row, columns], self._gradient[row, columns]
        return _Part(row, rate, decay, *own, (first, second), self._steps[row])

    def _update_at_once(self, factors: Sequence[float]) -> None:
        """All models and runs of weights together, each by its own settings."""
        if factors != self._factors:  # most often they stay what they were
            rates = [
                [rate * factor for (rate, _), factor in zip(own, factors, strict=True)]
                for own in self._runs
            ]
            self._factors, self._rates = factors, self._of_models(rates)
        decays = self._decays
        if self._specs[0].name == "adamw":
            updates = self._directions()
            self._weights.mul_(1 - self._rates * decays)
        else:
            gradient = torch.addcmul(self._gradient, self._weights, decays)
            updates = self._moments[0].mul_(self._momenta).add_(gradient)
        self._weights.addcmul_(updates, self._rates, value=-1)

    def _directions(self) -> Tensor:
        """Where AdamW goes, before the rate."""
        (first, second), (slow, slower) = self._moments, BETAS
        first.lerp_(self._gradient, 1 - slow)
        second.mul_(slower).addcmul_(self._gradient, self._gradient, value=1 - slower)
        one, other = (1 - beta ** self._steps[:, None] for beta in BETAS)
        return first / (second.sqrt().div_(other.sqrt()).add_(EPSILON)).mul_(one)

    @cached_property
    def _decays(self) -> Tensor:
        return self._of_models([[decay for _, decay in own] for own in self._runs])

    @cached_property
    def _momenta(self) -> Tensor:
        return self._weights.new_tensor([spec.momentum for spec in self._specs])[:, None]

    def _of_models(self, values: Sequence[Sequence[float]]) -> Tensor:
        """A value of each run of weights and model, as [models, weights] to multiply with."""
        table = torch.tensor(values, dtype=self._weights.dtype)
        if self._weights.is_cuda:
            table = table.pin_memory().to(self._weights.device, non_blocking=True)
        return table.T.repeat_interleave(self._lengths, 1, output_size=self._weights.shape[1])

    @cached_property
    def _lengths(self) -> Tensor:
        lengths = [columns.stop - columns.start for columns in self._runs.values()]
        return torch.tensor(lengths, device=self._weights.device)

    def _adamw(self, part: _Part, rate: float) -> None:
        """Loshchilov and Hutter, 2019, by the same kernel that torch's own optimizer calls, which
        takes one rate a call.
        """
        first, second = part.moments
        torch._fused_adamw_(
            [part.weights], [part.gradient], [first], [second], [], [part.steps], lr=rate,
            beta1=BETAS[0], beta2=BETAS[1], weight_decay=part.decay, eps=EPSILON,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def _sgd(self, part: _Part, rate: float) -> None:
        """With momentum and coupled decay, as torch's own."""
        gradient = part.gradient.add(part.weights, alpha=part.decay)
        part.moments[0].mul_(self._specs[part.row].momentum).add_(gradient)
        part.weights.add_(part.moments[0], alpha=-rate)
