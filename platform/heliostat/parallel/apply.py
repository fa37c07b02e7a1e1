"""Parallelism applied to a plain model from outside: data alone is DDP, all else cuts the model
(see `cut`); shard is FSDP2, with data > 1 hybrid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, noop_context_fn

from heliostat.errors import Problem, UserError
from heliostat.parallel.data import data_parallel
from heliostat.parallel.parts import is_part, whole
from heliostat.parallel.pipeline import Stage, stage_of
from heliostat.parallel.units import units_of
from heliostat.parallel.world import Degrees, World

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


@dataclass(frozen=True)
class Means:
    """What changes the time and memory of a step, and not its result: compile the units, compute
    them again in the backward pass. `contexts` gives the contexts of a unit's first pass and of
    the one in which it is computed again.
    """

    compile: bool = False
    recompute: bool = False
    contexts: Callable[[], Contexts] = noop_context_fn


def parallelized(
    model: nn.Module,
    world: World,
    degrees: Degrees,
    means: Means = Means(),
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The module that training calls: `model` itself, cut in place, or a wrapper around it; on
    `device`, to which a model that is cut goes layer by layer, so that it need not fit there whole.

    A model says how it may be cut by `tensor_plan`, patterns of module names and a style for
    each, and `shard_units`, patterns of the modules whose weights are gathered together.
    Gradients are averaged over the ranks that see different rows. Buffers are left alone:
    whatever fills them must already agree on all ranks.

    Raises:
        UserError: the model names no units, and they are to be computed again.
    """
    _apply(means, model)
    if world.size * degrees.peers == 1 or not any(p.requires_grad for p in model.parameters()):
        return model.to(device)
    if not degrees.cuts:
        return data_parallel(model.to(device), world.size)
    from heliostat.parallel.cut import cut  # half a second of import; few models are cut

    cut(model, world, degrees, device)
    return model.to(device)


def is_cut(model: nn.Module) -> bool:
    """Whether no rank holds all weights."""
    return stage_of(model) is not None or any(map(is_part, model.parameters()))


def let_go(model: nn.Module) -> None:
    """Give back weights of others that a pass without gradients has gathered."""
    if not is_cut(model):
        return
    from torch.distributed.fsdp import FSDPModule  # loaded already, by who cut the model

    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def unsynced(replica: nn.Module) -> Iterator[None]:
    """While it lasts, gradients stay with their rank, to be summed with the next ones."""
    if isinstance(replica, DistributedDataParallel):
        with replica.no_sync():
            yield
        return
    if not is_cut(replica):
        yield
        return
    from torch.distributed.fsdp import FSDPModule  # loaded already, by who cut the model

    if isinstance(replica, FSDPModule):
        replica.set_requires_gradient_sync(False)
    yield
    if isinstance(replica, FSDPModule):
        replica.set_requires_gradient_sync(True)


def gradient_norm(parameters: Sequence[nn.Parameter], stage: Stage | None) -> Tensor:
    """The norm of all gradients together, the same on every rank."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:  # a step that was left out has none
        norm = torch.zeros((), device=parameters[0].device)
    elif any(map(is_part, gradients)):
        norm = torch.stack([whole(torch.linalg.vector_norm(g)) for g in gradients]).norm()
    else:
        # As `nn.utils.get_total_norm`, which first sorts gradients by device: here all are on one.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm if stage is None else stage.sum(norm.square()).sqrt()


def clip(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients so that their norm is at most `max_norm`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_part, gradients)):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # which nobody waits for
    for gradient in gradients:
        (gradient.to_local() if is_part(gradient) else gradient).mul_(factor)


def whole_tensors(model: nn.Module, own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The whole of every tensor, one after another, of which this rank has its part in `own`: of a
    model that is cut, every rank must ask.
    """
    named = ((name, whole(tensor.detach())) for name, tensor in own.items())
    stage = stage_of(model)
    return named if stage is None else stage.all_of(named)


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, cut and placed as `model` is; one that is cut already stays."""
    if is_part(tensor):
        return tensor
    tensor = tensor.to(model.device)
    if is_part(model):
        from torch.distributed.tensor import distribute_tensor  # loaded already

        return distribute_tensor(tensor, model.device_mesh, model.placements)
    return tensor


@torch.no_grad()
def load_whole(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Load whole tensors, by name, into a model that may be cut."""
    own, is_stage = model.state_dict(), stage_of(model) is not None
    for name, tensor in tensors:
        if name in own or not is_stage:  # a stage has few of the names
            own[name].copy_(like(tensor, own[name]))


def _apply(means: Means, model: nn.Module) -> None:
    units = units_of(model)
    if means.recompute and not units:
        what = (
            f"`{type(model).__name__}` names no `shard_units`, modules that can be computed again"
        )
        raise UserError(Problem("scale.activation_checkpointing", what, "leave it out"))
    for unit in units if means.recompute else ():
        unit.forward = partial(
            checkpoint, unit.forward, use_reentrant=False, context_fn=means.contexts
        )
    for unit in (units or [model]) if means.compile else ():
        unit.compile()
