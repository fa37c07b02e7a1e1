"""Networks of a user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two layers."""

    def __init__(self, shape, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(shape.num_numbers, width), nn.Tanh(), nn.Linear(width, shape.num_outputs)
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        output: Tensor = self.layers(numbers)
        return output


class Hungry(Net):
    """Takes `share` of the GPU's memory to learn from `rows` rows at once."""

    def __init__(self, shape, share: float = 0.0, rows: int = 1) -> None:
        super().__init__(shape)
        self.share, self.rows = share, rows

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        share = self.share * len(numbers) / self.rows * self.training
        if numbers.is_cuda:
            total = torch.cuda.get_device_properties(numbers.device).total_memory
            torch.empty(int(share * total), dtype=torch.uint8, device=numbers.device)
        elif share > 1:
            raise torch.OutOfMemoryError("CUDA out of memory, as a GPU would tell it")
        return super().forward(numbers, categories)
