"""The plan's formulas against the networks themselves."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from heliostat.errors import UserError
from heliostat.models.network import build_network
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from tests.data.packing import plan_of

NUMBERS = "x: {type: number, indicator: true}, z: number, count: number"
MODELS = [
    "{kind: mlp, hidden: [24, 16], norm: layer}",
    "{kind: mlp, hidden: [24, 24], norm: batch, residual: true}",
    "{kind: mlp, hidden: [8], norm: none}",
    "{kind: tabular_transformer, d_model: 16, nhead: 2, num_layers: 3, dim_feedforward: 24}",
]


@pytest.mark.parametrize("model", MODELS)
def test_parameters_and_flops_are_those_of_the_network(make_job, table, model):
    features = f"{{{NUMBERS}, color: {{type: category, buckets: 8}}}}"
    data = f"data: {{source: {table}, target: late, task: binary, features: {features}}}"
    plan = plan_of(make_job(data=data, model=f"model: {model}", train="train: {batch_size: 64}"))
    module = build_network(plan.job.spec.model, Shape(4, (10,), 1, "binary"), Randomness(), None)
    assert plan.size.exact
    assert plan.size.parameters == sum(p.numel() for p in module.parameters())
    # The fused attention of the CPU is not counted; plain matrix products are.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain, torch.no_grad():
        module(torch.randn(64, 4), torch.zeros(64, 1, dtype=torch.int64))
    assert plan.size.flops_per_row * 64 == 3 * counter.get_total_flops()


@pytest.mark.parametrize(
    "keys", ["", "tie_word_embeddings: true", "attention_bias: true, vocab_size: 300",
             "qk_norm: true, head_dim: 12"]
)  # fmt: skip
def test_a_language_model_is_as_large_as_planned(make_job, tmp_path, keys):
    source = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["a text"] * 30}), source)
    sizes = "max_tokens: 16, hidden_size: 24, num_attention_heads: 4, num_key_value_heads: 2"
    plan = plan_of(
        make_job(
            data=f"data: {{source: {source}, target: text, task: language}}",
            model=f"model: {{kind: gpt, {sizes}, {keys}}}",
            train="train: {batch_size: 2}",
        )  # fmt: skip
    )
    vocabulary = 300 if "vocab_size" in keys else 257
    shape = Shape(0, (), vocabulary, "language", end=256)
    module = build_network(plan.job.spec.model, shape, Randomness(), None)
    assert plan.size.parameters == sum(p.numel() for p in module.parameters())
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain, torch.no_grad():
        module(torch.empty(2, 0), torch.zeros(2, 16, dtype=torch.int64))
    assert plan.size.flops_per_row * 2 == 3 * counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["data.features={ask: {type: text, max_tokens: 4}}"], "a prompt is text"),
        (["data.features={ask: text, say: text, more: text}"], "takes one text before"),
        (["model.vocab_size=100"], "the tokenizer has 257 tokens"),
        (["model.tokenizer=/nowhere"], "holds no tokenizer.json"),
        (["model.num_attention_heads=5"], "5 heads do not divide hidden_size = 24"),
        (["model.num_key_value_heads=3"], "does not divide num_attention_heads"),
        (["data.split.method=stratified"], "task `language` has none"),
        (["data.ingest=stream"], "packs rows by themselves"),
        (["data.split.folds=3"], "one validation side"),
        (["data.task=binary"], "does not do task `binary`"),
        (["scale.workers=4", "scale.parallel.tensor=4"], "4 does not divide model.num_key_value"),
    ],
)
def test_what_a_language_model_cannot_do_is_refused(make_job, tmp_path, settings, sentence):
    source = tmp_path / "texts.parquet"
    words = ["a text"] * 30
    pq.write_table(pa.table({"say": words, "ask": words, "more": words}), source)
    sizes = "max_tokens: 16, hidden_size: 24, num_attention_heads: 4, num_key_value_heads: 2"
    job = make_job(
        data=f"data: {{source: {source}, target: say, task: language}}",
        model=f"model: {{kind: gpt, {sizes}}}", train="train: {batch_size: 8}",
    )  # fmt: skip
    with pytest.raises(UserError, match=sentence):
        plan_of(job, *settings)


def test_what_the_data_must_tell_makes_a_lower_bound(make_job, heliostat):
    job = make_job(model=f"model: {MODELS[0]}", train="train: {batch_size: 64}")
    assert not plan_of(job).size.exact
    told = heliostat(
        "plan", job, "--set", "scale.workers=2", "--set", "scale.parallel.shard=2"
    ).stdout
    assert "model     at least 593 parameters, " in told and "a worker, cut over 2" in told
