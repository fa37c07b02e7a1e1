"""A transformer over columns (Gorishniy et al., 2021, "FT-Transformer"): each number, category
and text becomes one token; the first token, of no column, is what the output is read from.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.models.predictor import Shape
from heliostat.models.randomness import HashDropout, Randomness
from heliostat.spec.model import TabularTransformerModel


class TabularTransformer(nn.Module):
    """Tokens, layers of attention and a feed-forward network, norm, one linear layer."""

    # Heads and hidden units are divided; the sums over them are put together.
    tensor_plan: ClassVar = {
        "layers.*.queries": "columns",
        "layers.*.keys": "columns",
        "layers.*.values": "columns",
        "layers.*.output": "rows",
        "layers.*.grow": "columns",
        "layers.*.shrink": "rows",
    }
    shard_units: ClassVar = ("layers.*",)
    pipeline_units: ClassVar = "layers"

    def __init__(self, spec: TabularTransformerModel, shape: Shape, randomness: Randomness) -> None:
        super().__init__()
        self.tokens = ColumnTokens(shape, spec.d_model)
        self.layers = nn.ModuleList(
            Layer(spec, self.tokens.count, number, randomness) for number in range(spec.num_layers)
        )
        self.norm = nn.LayerNorm(spec.d_model)
        self.head = nn.Linear(spec.d_model, shape.num_outputs)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """[rows, numbers] and [rows, categories] to [rows, outputs]."""
        return self.project(self.transform(self.embed(numbers, categories), categories))

    def embed(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """What the layers begin with: [rows, 1 + columns, width]."""
        x: Tensor = self.tokens(numbers, categories)
        return x

    def transform(self, x: Tensor, categories: Tensor) -> Tensor:
        """The layers, one after another."""
        for layer in self.layers:
            x = layer(x)
        return x

    def project(self, x: Tensor) -> Tensor:
        """The outputs, read from the first token."""
        output: Tensor = self.head(self.norm(x[:, 0]))
        return output


class ColumnTokens(nn.Module):
    """[rows, 1 + columns, width]. A number scales a direction of its own; code 0 of a category,
    a value never seen in training, adds nothing to its column's token.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        num_categories = len(shape.cardinalities)
        self.count = 1 + shape.num_numbers + num_categories + len(shape.texts)
        self.first = nn.Parameter(torch.empty(1, 1, width))
        self.directions = nn.Parameter(torch.empty(shape.num_numbers, width))
        self.bias = nn.Parameter(torch.empty(self.count - 1, width))
        for parameter in (self.first, self.directions, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        self.tables = nn.ModuleList(
            nn.Embedding(codes, width, padding_idx=0) for codes in shape.cardinalities
        )
        self.texts = nn.ModuleList(
            nn.Embedding(codes, width, padding_idx=0) for codes, _ in shape.texts
        )
        places = [num_categories, *(places for _, places in shape.texts)]
        self.ends = [sum(places[: i + 1]) for i in range(len(places) - 1)]

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """See the class."""
        codes, *texts = torch.tensor_split(categories, self.ends, 1)
        parts = [numbers[:, :, None] * self.directions]
        parts += [table(codes[:, i])[:, None] for i, table in enumerate(self.tables)]
        for table, tokens in zip(self.texts, texts, strict=True):
            present = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
            parts.append((table(tokens).sum(1) / present)[:, None])
        columns = torch.cat(parts, 1) + self.bias
        return torch.cat([self.first.expand(len(numbers), -1, -1), columns], 1)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each dropped out before its sum."""

    def __init__(
        self, spec: TabularTransformerModel, num_tokens: int, number: int, randomness: Randomness
    ) -> None:
        super().__init__()
        width, self.head_width = spec.d_model, spec.d_model // spec.nhead
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # A bias of the keys has no gradient and would drift under AdamW.
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.grow = nn.Linear(width, spec.dim_feedforward)
        self.shrink = nn.Linear(spec.dim_feedforward, width)
        cells = num_tokens * width
        self.drops = nn.ModuleList(
            HashDropout(spec.dropout, cells, 2 * number + i, randomness) for i in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, width] to the same."""
        x = x + self._dropped(0, self._attention(self.attention_norm(x)))
        return x + self._dropped(1, self.shrink(F.gelu(self.grow(self.feed_norm(x)))))

    def _attention(self, x: Tensor) -> Tensor:
        def heads(part: Tensor) -> Tensor:
            return part.view(*part.shape[:2], -1, self.head_width).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            heads(self.queries(x)), heads(self.keys(x)), heads(self.values(x))
        )
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _dropped(self, place: int, x: Tensor) -> Tensor:
        dropped: Tensor = self.drops[place](x.flatten(1)).view(x.shape)
        return dropped
