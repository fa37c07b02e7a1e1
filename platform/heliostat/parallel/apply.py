"""Parallelism applied to a plain model from outside, in one order: pipeline, tensor, then shard and
data.

A mesh has four dimensions, data x shard x pipeline x tensor; rows are split over the first two,
and pipeline and tensor peers see the same rows. Data alone is DDP; shard is FSDP2, with data > 1
hybrid. Beside pipeline and tensor, data ranks share the weights as shard ranks do: DDP does not
know tensors that are cut already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, noop_context_fn

from heliostat.errors import Problem, UserError
from heliostat.parallel.data import data_parallel
from heliostat.parallel.pipeline import Stage, enter_stage, stage_of
from heliostat.parallel.world import Degrees, World

MESH = ("data", "shard", "pipeline", "tensor")
Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "columns": lambda: ColwiseParallel(),
    "rows": lambda: RowwiseParallel(),
    "gathered columns": lambda: ColwiseParallel(output_layouts=Replicate()),
}


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
    data = world.size // degrees.shard
    shape = {"data": data} | vars(degrees)
    lengths = tuple(shape[name] for name in MESH)
    mesh = init_device_mesh(torch.device(device).type, lengths, mesh_dim_names=MESH)
    if degrees.pipeline > 1:
        stages = mesh["pipeline"]
        enter_stage(model, stages.get_local_rank(), degrees.pipeline, stages.get_group())
    if degrees.tensor > 1:
        parallelize_module(model, mesh["tensor"], _tensor_plan(model))
    if world.size > 1:
        _shard(model, _shard_mesh(mesh, data, degrees.shard))
    return model.to(device)


def is_cut(model: nn.Module) -> bool:
    """Whether no rank holds all weights."""
    return stage_of(model) is not None or any(
        isinstance(parameter, DTensor) for parameter in model.parameters()
    )


def let_go(model: nn.Module) -> None:
    """Give back weights of others that a pass without gradients has gathered."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def unsynced(replica: nn.Module) -> Iterator[None]:
    """While it lasts, gradients stay with their rank, to be summed with the next ones."""
    if isinstance(replica, DistributedDataParallel):
        with replica.no_sync():
            yield
    elif isinstance(replica, FSDPModule):
        replica.set_requires_gradient_sync(False)
        yield
        replica.set_requires_gradient_sync(True)
    else:
        yield


def gradient_norm(parameters: Sequence[nn.Parameter], stage: Stage | None) -> Tensor:
    """The norm of all gradients together, the same on every rank."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:  # a step that was left out has none
        norm = torch.zeros((), device=parameters[0].device)
    elif any(isinstance(gradient, DTensor) for gradient in gradients):
        norm = torch.stack([whole(torch.linalg.vector_norm(g)) for g in gradients]).norm()
    else:
        # As `nn.utils.get_total_norm`, which first sorts gradients by device: here all are on one.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm if stage is None else stage.sum(norm.square()).sqrt()


def clip(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients so that their norm is at most `max_norm`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # which nobody waits for
    for gradient in gradients:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(factor)


def whole_tensors(model: nn.Module, own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The whole of every tensor, one after another, of which this rank has its part in `own`: of a
    model that is cut, every rank must ask.
    """
    named = ((name, whole(tensor.detach())) for name, tensor in own.items())
    stage = stage_of(model)
    return named if stage is None else stage.all_of(named)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut: every rank that has a part must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, cut and placed as `model` is; one that is cut already stays."""
    if isinstance(tensor, DTensor):
        return tensor
    tensor = tensor.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(tensor, model.device_mesh, model.placements)
    return tensor


@torch.no_grad()
def load_whole(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Load whole tensors, by name, into a model that may be cut."""
    own, is_stage = model.state_dict(), stage_of(model) is not None
    for name, tensor in tensors:
        if name in own or not is_stage:  # a stage has few of the names
            own[name].copy_(like(tensor, own[name]))


def _tensor_plan(model: nn.Module) -> dict[str, ParallelStyle]:
    wanted: Mapping[str, str] = getattr(model, "tensor_plan", {})
    plan = {}
    for name, module in model.named_modules():
        style = next((s for pattern, s in wanted.items() if fnmatchcase(name, pattern)), None)
        if style is not None and isinstance(module, nn.Linear):
            plan[name] = STYLES[style]()
    return plan


def _shard_mesh(mesh: DeviceMesh, data: int, shard: int) -> DeviceMesh:
    if data > 1 and shard > 1:
        return mesh["data", "shard"]
    return mesh["shard"] if shard > 1 else mesh["data"]


def _shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Each unit's weights are gathered when it is called; those of no unit with the whole."""
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _units(model: nn.Module) -> list[nn.Module]:
    patterns = getattr(model, "shard_units", ())
    return [
        module
        for name, module in model.named_modules()
        if any(fnmatchcase(name, p) and name.count(".") == p.count(".") for p in patterns)
        and any(True for _ in module.parameters())
    ]


def _apply(means: Means, model: nn.Module) -> None:
    units = _units(model)
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
