"""Wide and deep (Cheng et al., 2016): a linear model and a network, added up.

heliostat builds `WideAndDeep(shape, **args)` and calls it with `numbers` [rows, numbers] and
`categories` [rows, categories]; it must return [rows, shape.num_outputs]. Nothing here knows of
workers, batches or Ray.
"""

import torch
from torch import nn


class WideAndDeep(nn.Module):
    """One weight a category value, and a small network over embeddings and numbers."""

    def __init__(self, shape, hidden=64, width=8):
        super().__init__()
        self.wide = nn.ModuleList(
            nn.Embedding(cardinality, shape.num_outputs) for cardinality in shape.cardinalities
        )
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality, width) for cardinality in shape.cardinalities
        )
        inputs = shape.num_numbers + width * len(shape.cardinalities)
        self.deep = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(hidden, shape.num_outputs),
        )

    def forward(self, numbers, categories):
        columns = categories.unbind(1)
        wide = sum(table(column) for table, column in zip(self.wide, columns, strict=True))
        vectors = [table(column) for table, column in zip(self.embeddings, columns, strict=True)]
        return wide + self.deep(torch.cat([numbers, *vectors], 1))
