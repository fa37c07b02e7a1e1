"""A multi-layer perceptron over numbers and embedded categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from heliostat.models.norm import GlobalBatchNorm
from heliostat.models.predictor import Shape
from heliostat.models.randomness import HashDropout, Randomness
from heliostat.plan.size import embedding_width
from heliostat.spec.model import MlpModel

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class CategoryEmbeddings(nn.Module):
    """One embedding a category, side by side. Code 0, values never seen in training, is the
    zero vector and stays it.
    """

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        widths = [embedding_width(cardinality) for cardinality in cardinalities]
        self.tables = nn.ModuleList(
            nn.Embedding(cardinality, width, padding_idx=0)
            for cardinality, width in zip(cardinalities, widths, strict=True)
        )
        self.width = sum(widths)

    def forward(self, categories: Tensor) -> Tensor:
        """[rows, categories] codes to [rows, width]."""
        vectors = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat(vectors, -1)


class TokenEmbeddings(nn.Module):
    """The mean of the embeddings of a text's tokens; the zero vector if it has none."""

    def __init__(self, cardinality: int) -> None:
        super().__init__()
        self.width = embedding_width(cardinality)
        self.table = nn.Embedding(cardinality, self.width, padding_idx=0)

    def forward(self, tokens: Tensor) -> Tensor:
        """[rows, tokens] codes to [rows, width]."""
        total: Tensor = self.table(tokens).sum(-2)
        return total / (tokens > 0).sum(1, keepdim=True).clamp(min=1)


class Residual(nn.Module):
    """The sum of a block's input and output (He et al., 2015)."""

    def __init__(self, block: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] to the same."""
        output: Tensor = x + self.block(x)
        return output


class Mlp(nn.Module):
    """Blocks of linear, norm, activation and dropout, then one linear layer."""

    # Norms and dropout take whole rows: what a layer has computed in parts is put together.
    tensor_plan: ClassVar = {"blocks.*": "gathered columns"}
    shard_units: ClassVar = ("blocks",)
    pipeline_units: ClassVar = "blocks"

    def __init__(self, spec: MlpModel, shape: Shape, randomness: Randomness) -> None:
        super().__init__()
        self.embeddings = CategoryEmbeddings(shape.cardinalities) if shape.cardinalities else None
        width = shape.num_numbers + (self.embeddings.width if self.embeddings else 0)
        self.texts = nn.ModuleList(TokenEmbeddings(codes) for codes, _ in shape.texts)
        places = [len(shape.cardinalities), *(places for _, places in shape.texts)]
        self.ends = [sum(places[: i + 1]) for i in range(len(places) - 1)]
        width += sum(embedding_width(codes) for codes, _ in shape.texts)
        blocks: list[nn.Module] = []
        for layer, hidden in enumerate(spec.hidden):
            block = _block(spec, width, hidden, layer, randomness)
            blocks += [Residual(block)] if spec.residual and hidden == width else block
            width = hidden
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, shape.num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """[rows, numbers] and [rows, categories] to [rows, outputs]."""
        return self.project(self.transform(self.embed(numbers, categories), categories))

    def embed(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """What the blocks begin with: [rows, width]."""
        codes, *texts = torch.tensor_split(categories, self.ends, 1)
        parts = [numbers]
        if self.embeddings is not None:
            parts.append(self.embeddings(codes))
        parts += [text(tokens) for text, tokens in zip(self.texts, texts, strict=True)]
        return torch.cat(parts, -1)

    def transform(self, x: Tensor, categories: Tensor) -> Tensor:
        """The blocks, one after another."""
        output: Tensor = self.blocks(x)
        return output

    def project(self, x: Tensor) -> Tensor:
        """The outputs."""
        output: Tensor = self.head(x)
        return output


def _block(
    spec: MlpModel, width: int, hidden: int, layer: int, randomness: Randomness
) -> list[nn.Module]:
    # A bias before batch normalisation has no gradient and would drift under AdamW.
    block: list[nn.Module] = [nn.Linear(width, hidden, bias=spec.norm != "batch")]
    if spec.norm == "layer":
        block.append(nn.LayerNorm(hidden))
    elif spec.norm == "batch":
        block.append(GlobalBatchNorm(hidden))
    block.append(ACTIVATIONS[spec.activation]())
    if spec.dropout > 0:
        block.append(HashDropout(spec.dropout, hidden, layer, randomness))
    return block
