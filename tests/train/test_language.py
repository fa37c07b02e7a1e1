"""A language model learns what an independent implementation learns from the same batches."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import transformers

from heliostat.data.prepared import Prepared
from heliostat.data.reader import EpochBatches
from heliostat.data.sequences import SequenceReader
from heliostat.data.split import split_rows
from heliostat.models.gpt import Gpt
from heliostat.models.randomness import Randomness
from heliostat.train.optim import rate_factor
from tests.conftest import job_text
from tests.data.packing import plan_of

STEPS, BATCH, TOKENS = 30, 8, 32
MODEL = "{kind: gpt, max_tokens: 32, hidden_size: 32, num_attention_heads: 4, attention: sequence,"
MODEL += " num_hidden_layers: 2, num_key_value_heads: 2, intermediate_size: 64"
TRAIN = f"train: {{steps: {STEPS}, batch_size: {BATCH}, validate_every: {STEPS}, clip_norm: 1.0,"
TRAIN += " optimizer: {learning_rate: 0.01, weight_decay: 0.1},"
TRAIN += " schedule: {name: cosine, warmup_steps: 5}"


@pytest.fixture
def text_job(tmp_path):
    rng = random.Random(2)
    words = "the mirrors of a field turn together and point the light at one tower".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(60)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts.parquet")
    data = f"data: {{source: {tmp_path}/texts.parquet, target: text, task: language}}"

    def parts(model: str = "", train: str = "") -> dict[str, str]:
        return {"data": data, "model": f"model: {MODEL}{model}}}", "train": f"{TRAIN}{train}}}"}

    return parts


def test_losses_are_those_of_transformers_in_a_bare_loop(trained, text_job, table, tmp_path):
    losses, metrics, _ = trained(1, **text_job())
    (tmp_path / "job.yaml").write_text(job_text(table, **text_job()))
    plan = plan_of(tmp_path / "job.yaml")
    spec = plan.job.spec
    prepared = Prepared.open(tmp_path / "prepared" / plan.prepared_digest)
    rows = split_rows(prepared, plan.columns, spec.data, spec.seed).sides
    torch.manual_seed(spec.seed)
    weights = Gpt(spec.model, 257, 256, Randomness()).state_dict()
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6,
        max_position_embeddings=TOKENS, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(weights)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    reader = SequenceReader(prepared, rows["train"], "text", None, 256, TOKENS)
    every = np.arange(reader.num_sequences)
    batches = EpochBatches(reader, every, BATCH, spec.seed, 0, 1)(0)
    bare = []
    for step in range(STEPS):
        own = next(batches).own
        logits = model(torch.from_numpy(own.inputs.categories).long()).logits
        each = F.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(own.target).flatten(), reduction="none"
        )
        loss = (each * torch.from_numpy(own.weights).flatten()).sum() / own.weights.sum()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate_factor(spec.train.schedule, step, STEPS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bare.append(loss.item())
    np.testing.assert_allclose(losses, bare, rtol=1e-3)
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["test"]["perplexity"] == pytest.approx(np.exp(metrics["test"]["log_loss"]))


@pytest.mark.slow
def test_compiled_layers_compute_the_same(trained, text_job):
    losses, _, _ = trained(1, **text_job(", dropout: 0.1"))
    again, _, _ = trained(1, name="compiled", **text_job(", dropout: 0.1", ", compile: true"))
    np.testing.assert_allclose(again, losses, rtol=1e-4)


def test_a_run_is_exported_and_another_begins_with_it(
    heliostat, text_job, table, tmp_path, ray_head
):
    where = {"RAY_ADDRESS": ray_head.address}
    job = tmp_path / "job.yaml"
    job.write_text(job_text(table, **text_job()))
    storage = ["--set", f"storage={tmp_path}/storage"]
    done = heliostat("run", job, *storage, "--json", env=where)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    out = tmp_path / "for-transformers"
    exporting = ["export", "small", "--format", "huggingface", "--storage", tmp_path / "storage"]
    assert heliostat(*exporting, "--out", out).returncode == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert theirs.config.eos_token_id == 256
    # Documents of one row group are packed as they were: the test rows alone, and all alike.
    held = pq.read_table(tmp_path / "texts.parquet")
    plan = plan_of(job, f"storage={tmp_path}/storage")
    prepared = Prepared.open(tmp_path / "storage" / "prepared" / plan.prepared_digest)
    rows = split_rows(prepared, plan.columns, plan.job.spec.data, plan.job.spec.seed)
    pq.write_table(held.take(np.asarray(rows.sides["test"])), tmp_path / "test.parquet")
    scored = ["--storage", tmp_path / "storage", "--data", tmp_path / "test.parquet"]
    done = heliostat("evaluate", "small", *scored, "--json", env=where)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == pytest.approx(result["metrics"]["test"], rel=1e-5)
    done = heliostat("predict", "small", *scored, "--out", tmp_path / "x", env=where)
    assert done.returncode == 2 and "export" in done.stderr
    again = heliostat(*exporting, "--out", out)
    assert again.returncode == 2 and "exists" in again.stderr
    begun = ["--set", f"model.init_from={out}", "--set", "train.steps=1", "--set", "name=next"]
    done = heliostat(
        "run", job, *storage, *begun, "--set", "train.optimizer.learning_rate=1e-9", "--json",
        env=where,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    test = json.loads(done.stdout)["metrics"]["test"]
    assert test["log_loss"] == pytest.approx(result["metrics"]["test"]["log_loss"], rel=1e-4)
