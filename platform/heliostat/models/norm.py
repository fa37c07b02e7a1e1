"""Batch normalisation over the global batch, on any number of workers and any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GlobalBatchNorm(nn.Module):
    """Normalises each feature by mean and variance over all ranks' rows (Ioffe and Szegedy,
    2015). Costs one all-reduce of 2 x width + 1 numbers forward and one backward.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [rows, width]."""
        if not self.training:
            return self._scale(x, self.mean, self.variance)
        x = x.to(self.mean.dtype)  # sums of many rows need more than bfloat16
        count = torch.tensor([float(len(x))], device=x.device)
        sums = torch.cat([x.sum(0), (x * x).sum(0), count])
        total = _sum_over_ranks(sums)
        width = x.shape[1]
        rows = total[-1].detach()
        mean = total[:width] / rows
        variance = (total[width : 2 * width] / rows - mean * mean).clamp_min(0)
        with torch.no_grad():
            unbiased = variance * rows / (rows - 1).clamp_min(1)
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(unbiased, self.momentum)
        return self._scale(x, mean, variance)

    def _scale(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (x - mean) * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias


def _sum_over_ranks(x: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return x
    result: Tensor = _AllReduceSum.apply(x)  # type: ignore[no-untyped-call]
    return result


class _AllReduceSum(torch.autograd.Function):
    """Every rank's loss depends on every rank's rows, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
