"""Name what went wrong inside a network: the first module, or parameter, that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from heliostat.parallel.parts import is_part
from heliostat.parallel.world import World

REMEDY = "lower `train.optimizer.learning_rate`, set `train.clip_norm`, or scale the inputs"


def forward_trouble(
    model: nn.Module, forward: Callable[[], object], loss: float, step: int, world: World
) -> str:
    """Why the loss of a step is not finite: by a gradient of the step before, of which the last
    one is where it began; or in `forward`, which is run again to see where. `world` are the ranks
    that ask: of a model that is cut, all.
    """
    broken = {name: p for name, p in model.named_parameters() if not _is_finite(p)}
    trained = [name for name, parameter in broken.items() if parameter.requires_grad]
    if trained and step > 1:
        return _of_gradient(f"of `{trained[-1]}`", step - 1)
    if broken:
        began = f"the parameter `{next(iter(broken))}` was not finite before it"
        return f"the training loss is {loss} at step {step}; {began}. {REMEDY}"
    with _watched(model) as seen, torch.no_grad():
        forward()
    # A rank may have no row that does it.
    anywhere = world.sum(np.array([is_bad for _, is_bad in seen], np.float64))
    bad = [name for (name, _), count in zip(seen, anywhere, strict=True) if count]
    where = f"`{bad[0]}` is the first module whose output is not finite" if bad else "in the loss"
    return f"the training loss is {loss} at step {step}: {where}. {REMEDY}"


def gradient_trouble(model: nn.Module, step: int) -> str:
    """Which gradient of a step is not finite. They flow from the end of the network to its
    beginning, so that the last one is where it began.
    """
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not _is_finite(parameter.grad)
    ]
    where = f"of `{bad[-1]}`" if bad else "of all parameters together"
    return _of_gradient(where, step)


def _of_gradient(where: str, step: int) -> str:
    return f"the gradient {where} is not finite at step {step}. {REMEDY}"


def _is_finite(tensor: Tensor) -> bool:
    """Of one that is cut, the part that is here."""
    here = tensor.to_local() if is_part(tensor) else tensor
    return bool(torch.isfinite(here).all())


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[str, bool]]]:
    """The modules that hold no others, in the order of their calls, and whether what each gave is
    not finite.
    """
    seen: list[tuple[str, bool]] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            seen.append((name, isinstance(output, Tensor) and not _is_finite(output)))

        return look

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not any(module.children())
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
