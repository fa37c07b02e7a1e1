"""How large a network is, by formula: its parameters, and the arithmetic of a step.

How many values a category has, and how many classes there are, is known once the data is read:
until then these are lower bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heliostat.catalog.vocabulary import read_vocabulary
from heliostat.plan.columns import Columns
from heliostat.spec.job import JobSpec
from heliostat.spec.model import GptModel, MlpModel, TabularTransformerModel

OWN_CODES = 2  # of a category: a value never seen, and a missing one
STATE_COPIES = {"adamw": 4, "sgd": 3}  # weights, gradients, and one or two moments
BYTES = 4


@dataclass(frozen=True)
class NetworkSize:
    """Numbers to be learned, operations of a row's forward and backward pass (each multiply and
    add counts; backward is twice forward), and whether they are exact.
    """

    parameters: int
    flops_per_row: int
    exact: bool

    def state_bytes(self, optimizer: str) -> int:
        """Weights, gradients and the optimizer's state together, in float32."""
        return self.parameters * STATE_COPIES[optimizer] * BYTES


def embedding_width(cardinality: int) -> int:
    """1.6 x cardinality^0.56, at most 50 (fastai's rule for tabular data)."""
    return min(50, math.ceil(1.6 * float(cardinality) ** 0.56))


def network_size(spec: JobSpec, columns: Columns) -> NetworkSize | None:
    """The size of a network of ours; None of any other model."""
    numbers = sum(c.width for c in columns.inputs if c.kind not in ("category", "tokens"))
    numbers += sum(c.indicator for c in columns.of_kind("category"))
    categories = columns.of_kind("category")
    known = [c.buckets + OWN_CODES for c in categories if c.buckets is not None]
    exact = len(known) == len(categories) and spec.data.task != "multiclass"
    exact = exact and not columns.of_kind("tokens") and not columns.of_kind("custom")
    outputs = 2 if spec.data.task == "multiclass" else 1
    model = spec.model
    if isinstance(model, GptModel):
        return _gpt(model, read_vocabulary(model.tokenizer, model.end_token).size)
    if isinstance(model, MlpModel):
        return _mlp(model, numbers, known, outputs, exact)
    if isinstance(model, TabularTransformerModel):
        return _transformer(model, numbers, known, len(categories), outputs, exact)
    return None


def _mlp(
    model: MlpModel, numbers: int, known: Sequence[int], outputs: int, exact: bool
) -> NetworkSize:
    width = numbers + sum(embedding_width(codes) for codes in known)
    parameters = sum(codes * embedding_width(codes) for codes in known)
    matrices = 0
    for hidden in model.hidden:
        matrices += width * hidden
        parameters += hidden * ((model.norm != "batch") + 2 * (model.norm != "none"))
        width = hidden
    matrices += width * outputs
    return NetworkSize(parameters + matrices + outputs, 6 * matrices, exact)


def _gpt(model: GptModel, tokens: int) -> NetworkSize:
    """A row is a sequence. Of attention, all products count, as if it were not causal."""
    width, length = model.hidden_size, model.max_tokens
    queries = model.num_attention_heads * model.width_of_head
    shared = model.num_shared_heads * model.width_of_head
    matrices = width * (2 * queries + 2 * shared) + 3 * width * model.feed_forward_size
    others = 2 * width + model.attention_bias * (queries + 2 * shared)
    others += model.qk_norm * 2 * model.width_of_head
    vocabulary = model.vocab_size or tokens
    heads = 1 if model.tie_word_embeddings else 2
    layers = model.num_hidden_layers
    parameters = heads * vocabulary * width + layers * (matrices + others) + width
    a_token = layers * (matrices + 2 * length * queries) + vocabulary * width
    return NetworkSize(parameters, 6 * a_token * length, exact=True)


def _transformer(
    model: TabularTransformerModel,
    numbers: int,
    known: Sequence[int],
    num_categories: int,
    outputs: int,
    exact: bool,
) -> NetworkSize:
    width, hidden, layers = model.d_model, model.dim_feedforward, model.num_layers
    tokens = 1 + numbers + num_categories
    matrices = 4 * width * width + 2 * width * hidden
    others = 2 * width + hidden + 4 * width  # biases of the output and of the shrink; two norms
    inputs = width * (tokens + numbers + sum(known))
    parameters = inputs + layers * (matrices + others) + 2 * width + (width + 1) * outputs
    products = layers * (tokens * matrices + 2 * tokens * tokens * width) + width * outputs
    return NetworkSize(parameters, 6 * products, exact)
