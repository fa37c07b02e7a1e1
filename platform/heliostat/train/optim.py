"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from heliostat.errors import Problem, UserError
from heliostat.parallel.apply import like, whole_tensors
from heliostat.spec.train import OptimizerSpec, ParameterSpec, ScheduleSpec
from heliostat.train.optimizer import Optimizer


def build_optimizer(spec: OptimizerSpec, model: nn.Module) -> Optimizer:
    """The optimizer of what is here of a model. Vectors (biases, norms) are spared from weight
    decay, if no pattern of `spec.parameters` says otherwise.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    by_settings: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in trained:
        # One fused step takes tensors that are cut alike, on one device and of one type.
        kind = (type(parameter), getattr(parameter, "device_mesh", None))
        place = (parameter.device, parameter.dtype)
        key = (*settings_of(spec, name, parameter), *kind, *place)
        by_settings.setdefault(key, []).append(parameter)
    groups = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay, *_), parameters in by_settings.items()
    ]
    return Optimizer(spec.name, groups, spec.momentum)


def check_patterns(spec: OptimizerSpec, model: nn.Module) -> None:
    """Of the whole model, before it is cut.

    Raises:
        UserError: a pattern fits no parameter that is trained.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in spec.parameters:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(
                Problem(
                    f"train.optimizer.parameters.{pattern}",
                    "fits no parameter that is trained",
                    f"they are called {shown}",
                )
            )


def settings_of(spec: OptimizerSpec, name: str, parameter: Tensor) -> tuple[float, float]:
    """Learning rate and weight decay of a parameter."""
    own = next((s for p, s in spec.parameters.items() if fnmatchcase(name, p)), ParameterSpec())
    usual = spec.weight_decay if parameter.ndim > 1 else 0.0
    rate = spec.learning_rate if own.learning_rate is None else own.learning_rate
    return rate, usual if own.weight_decay is None else own.weight_decay


def rate_factor(spec: ScheduleSpec, step: int, num_steps: int, num_drops: int = 0) -> float:
    """What the learning rate is multiplied by at `step` of `num_steps`: a pure function, so
    that resuming needs no state. `num_drops` counts the plateaus so far.

    `one_cycle` rises over the first 30 per cent and falls to zero along half a cosine (Smith,
    2018); `cosine` is the half cosine alone (Loshchilov and Hutter, 2016).
    """
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    done = (step - spec.warmup_steps) / max(1, num_steps - spec.warmup_steps)
    if spec.name == "linear":
        return 1 - done
    if spec.name == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if spec.name == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    if spec.name == "one_cycle":
        if done < 0.3:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
        return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2
    return spec.factor**num_drops if spec.name == "plateau" else 1.0


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, which may be cut: `weight.exp_avg`, ..."""
    return {
        f"{name}.{key}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """A copy of the optimizer's state on the CPU, whole: every rank must ask for it."""
    return {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in whole_tensors(model, optimizer_state(optimizer, model))
    }


def load_optimizer_tensors(
    optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took."""
    for name, parameter in model.named_parameters():
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
            if (value := tensors.get(f"{name}.{key}")) is not None:
                here = parameter.detach()
                state[key] = value.to(here.device) if key == "step" else like(value, here)
        if state:
            optimizer.state[parameter] = state
    optimizer.share_counts()
