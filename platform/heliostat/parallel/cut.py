"""Cut a model for the ranks of a mesh, in one order: pipeline, tensor, then shard and data.

A mesh has four dimensions, data x shard x pipeline x tensor; rows are split over the first two,
and pipeline and tensor peers see the same rows. Beside pipeline and tensor, data ranks share the
weights as shard ranks do: DDP does not know tensors that are cut already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from heliostat.parallel.pipeline import enter_stage
from heliostat.parallel.units import units_of
from heliostat.parallel.world import Degrees, World

MESH = ("data", "shard", "pipeline", "tensor")
STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "columns": lambda: ColwiseParallel(),
    "rows": lambda: RowwiseParallel(),
    "gathered columns": lambda: ColwiseParallel(output_layouts=Replicate()),
}


def cut(model: nn.Module, world: World, degrees: Degrees, device: torch.device | str) -> None:
    """Leave of `model` what this rank holds, in place."""
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
    for unit in units_of(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
