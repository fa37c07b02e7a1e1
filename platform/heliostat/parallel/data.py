"""Data parallelism by DDP, with gradients added up in the order of the ranks."""

# No postponed annotations: DDP looks at those of a hook.
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def data_parallel(model: nn.Module, num_ranks: int) -> DistributedDataParallel:
    """`model` on `num_ranks` ranks that see different rows: after a backward pass all have the mean
    of their gradients.

    DDP puts its buckets together anew after the first step, and a ring adds up in an order that
    goes by the place in the bucket. Three ranks and more would so train other bits after a
    resume, whose first step is one in mid-training; two have no order.
    """
    kind = DistributedDataParallel if "torch._dynamo" in sys.modules else _Uncompiled
    with warnings.catch_warnings(), _without_compiler():
        warnings.simplefilter("ignore", FutureWarning)  # the new name is unknown to torch 2.11
        replica = kind(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    if num_ranks > 2 and next(model.parameters()).device.type == "cpu":
        replica.register_comm_hook(num_ranks, _mean_in_rank_order)
    return replica


class _Uncompiled(DistributedDataParallel):
    """DDP of a model of which nothing is compiled: it does not tell the compiler of its calls."""

    @contextmanager
    def _inside_ddp_forward(self) -> Iterator[None]:
        yield


@contextmanager
def _without_compiler() -> Iterator[None]:
    """DDP asks torch's compiler, where nothing has loaded it, for a setting that is off: loading it
    takes two ranks on two cores more than two seconds.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    settings = SimpleNamespace(get_optimize_ddp_mode=lambda: "no_optimization")
    stand_in = vars(torch)["_dynamo"] = SimpleNamespace(utils=settings)
    try:
        yield
    finally:
        if vars(torch).get("_dynamo") is stand_in:
            del vars(torch)["_dynamo"]


def _mean_in_rank_order(
    num_ranks: int,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """As many bytes as a ring sends: each rank adds up its part of the bucket, and all gather."""
    own: Tensor = bucket.buffer()
    sent = F.pad(own, (0, -len(own) % num_ranks))
    parts = torch.empty_like(sent)
    dist.all_to_all_single(parts, sent)
    first, *others = parts.view(num_ranks, -1)
    for part in others:
        first += part
    dist.all_gather_into_tensor(sent, first / num_ranks)
    own.copy_(sent[: len(own)])
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(own)
    return done
