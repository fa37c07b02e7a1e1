"""Name what went wrong inside a network: the first module, or parameter, that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

REMEDY = "lower `train.optimizer.learning_rate`, set `train.clip_norm`, or scale the inputs"


def forward_trouble(model: nn.Module, forward: Callable[[], object], loss: float, step: int) -> str:
    """Why the loss of a step is not finite: by a gradient of the step before, of which the last
    one is where it began; or in `forward`, which is run again to see where.
    """
    broken = {n: p for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())}
    trained = [name for name, parameter in broken.items() if parameter.requires_grad]
    if trained and step > 1:
        return _of_gradient(f"of `{trained[-1]}`", step - 1)
    if broken:
        began = f"the parameter `{next(iter(broken))}` was not finite before it"
        return f"the training loss is {loss} at step {step}; {began}. {REMEDY}"
    with _watched(model) as bad, torch.no_grad():
        forward()
    where = f"`{bad[0]}` is the first module whose output is not finite" if bad else "in the loss"
    return f"the training loss is {loss} at step {step}: {where}. {REMEDY}"


def gradient_trouble(model: nn.Module, step: int) -> str:
    """Which gradient of a step is not finite. They flow from the end of the network to its
    beginning, so that the last one is where it began.
    """
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    where = f"of `{bad[-1]}`" if bad else "of all parameters together"
    return _of_gradient(where, step)


def _of_gradient(where: str, step: int) -> str:
    return f"the gradient {where} is not finite at step {step}. {REMEDY}"


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad.append(name)

        return look

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not any(module.children())
    ]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()
