"""Several networks of the same shapes as one: each layer holds the weights of all, and multiplies
them in one batched product. Numbers are [models, rows, numbers]. Codes of categories are [rows,
categories] where all read the same rows, or [rows, categories, models] where each reads its own;
outputs are [models, rows, ...]. Models know nothing of it (cf. HFTA: Wang et al., MLSys 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.models.randomness import HashDropout, mix, row_keys_of


def stacked(modules: Sequence[nn.Module], own_rows: bool = False) -> nn.Module:
    """The modules as one, whose parameters have the same names and one more dimension in front.
    With `own_rows` each reads rows of its own, and draws for them.

    Raises:
        TypeError: there is no stacked form of a part of them; names it.
    """
    first = modules[0]
    form = FORMS.get(type(first))
    if form is not None:
        return form(modules, own_rows)
    if first._parameters or first._buffers:
        raise TypeError(f"`{type(first).__name__}` has no stacked form")
    whole = copy.copy(first)
    whole._modules = {
        name: stacked([module._modules[name] for module in modules], own_rows)  # type: ignore[misc]
        for name, part in first._modules.items()
        if part is not None
    } | {name: None for name, part in first._modules.items() if part is None}
    return whole


def _parameter(modules: Sequence[nn.Module], name: str) -> nn.Parameter | None:
    values = [getattr(module, name) for module in modules]
    if values[0] is None:
        return None
    return nn.Parameter(torch.stack([value.detach() for value in values]))


class StackedLinear(nn.Module):
    """`nn.Linear` of each model."""

    def __init__(self, modules: Sequence[nn.Linear], own_rows: bool) -> None:
        super().__init__()
        self.weight = _parameter(modules, "weight")
        self.bias = _parameter(modules, "bias")

    def forward(self, x: Tensor) -> Tensor:
        """[models, rows, in] to [models, rows, out]."""
        assert self.weight is not None
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        output: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output


class _Linear(torch.autograd.Function):
    """A batched linear map, whose weights' gradient comes in the layout of the weights: autograd's
    own comes transposed, and a third of a step goes into turning it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        back = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return back, torch.bmm(gradient.mT, x), gradient.sum(1)


class StackedLayerNorm(nn.Module):
    """`nn.LayerNorm` of each model."""

    def __init__(self, modules: Sequence[nn.LayerNorm], own_rows: bool) -> None:
        super().__init__()
        self.shape, self.eps = modules[0].normalized_shape, modules[0].eps
        self.weight = _parameter(modules, "weight")
        self.bias = _parameter(modules, "bias")

    def forward(self, x: Tensor) -> Tensor:
        """[models, rows, width] to the same."""
        assert self.weight is not None and self.bias is not None
        normal = F.layer_norm(x, self.shape, eps=self.eps)
        output: Tensor = _Affine.apply(normal, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output


class _Affine(torch.autograd.Function):
    """normal x weight + bias, each model's own, with no pass over the rows more than needed."""

    @staticmethod
    def forward(ctx: Any, normal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(normal, weight)
        return torch.addcmul(bias[:, None], normal, weight[:, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normal, weight = ctx.saved_tensors
        return gradient * weight[:, None], (gradient * normal).sum(1), gradient.sum(1)


class StackedEmbedding(nn.Module):
    """`nn.Embedding` of each model."""

    def __init__(self, modules: Sequence[nn.Embedding], own_rows: bool) -> None:
        super().__init__()
        self.padding, self.own_rows = modules[0].padding_idx, own_rows
        self.weight = _parameter(modules, "weight")

    def forward(self, codes: Tensor) -> Tensor:
        """Codes that all share, [rows, ...], to [models, rows, ..., width]; or each model's own,
        [rows, models], to [models, rows, width].
        """
        assert self.weight is not None
        models, num_codes, width = self.weight.shape
        if self.own_rows:
            assert self.padding is not None
            places = codes + torch.arange(models, device=codes.device) * num_codes
            vectors = F.embedding(places.T, self.weight.flatten(0, 1))
            # The vector of the padding is zero, and must learn nothing.
            return vectors * codes.T.ne(self.padding)[..., None]
        # One table of all models' vectors side by side: a row is looked up once for all.
        table = self.weight.transpose(0, 1).flatten(1)
        found = F.embedding(codes, table, self.padding)
        return found.view(*codes.shape, models, width).movedim(-2, 0)


class StackedDropout(nn.Module):
    """`HashDropout` of each model, with its own probability; of the same rows all draw alike."""

    columns: Tensor
    least: Tensor
    factor: Tensor

    def __init__(self, modules: Sequence[HashDropout], own_rows: bool) -> None:
        super().__init__()
        self.randomness = [module.randomness for module in modules[: None if own_rows else 1]]
        chances = [module.probability for module in modules]
        kept = {
            "columns": modules[0].columns,
            "least": torch.tensor([int(p * 2**31) for p in chances], dtype=torch.int32),
            "factor": torch.tensor([1 / (1 - p) for p in chances], dtype=torch.float32),
        }
        for name, value in kept.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[models, rows, width] to the same."""
        found = [row_keys_of(randomness) for randomness in self.randomness]
        keys = [each for each in found if each is not None]
        if not self.training or not keys:
            return x
        bits = mix(torch.stack(keys)[..., None] ^ self.columns) & 0x7FFFFFFF
        return x * (bits >= self.least[:, None, None]) * self.factor[:, None, None]


FORMS: dict[type[nn.Module], Callable[[Any, bool], nn.Module]] = {
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    nn.Embedding: StackedEmbedding,
    HashDropout: StackedDropout,
}
