"""Data parallelism: every rank holds the model, gradients are summed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from heliostat.parallel.world import World


def unsynced(replica: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, gradients stay with their rank, to be summed with the next ones."""
    if isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return nullcontext()


def replicate(model: nn.Module, world: World) -> nn.Module:
    """`model` with its gradients averaged over the world after each backward pass.

    Buffers are left alone: whatever fills them must already agree on all ranks.
    """
    if world.size == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
