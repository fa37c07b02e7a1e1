"""`gpt` against `transformers`' own Llama and Qwen, in both directions, and in training."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn.attention.flex_attention import flex_attention

from heliostat.errors import UserError
from heliostat.models import token_loss
from heliostat.models.documents import BLOCK, block_mask, dense_mask
from heliostat.models.gpt import Gpt
from heliostat.models.huggingface import CONFIG, check_config, export
from heliostat.models.network import WEIGHTS, cpu_state
from heliostat.models.predictor import Shape
from heliostat.models.randomness import Randomness
from heliostat.models.token_loss import TokenLoss
from heliostat.spec.model import GptModel
from heliostat.spec.train import LossSpec
from heliostat.train.losses import loss_sum
from heliostat.train.transfer import begin_from

SHAPE = Shape(0, (), 61, "language", end=60)
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "max_tokens": 24}
FAMILIES = {
    "llama": {"num_key_value_heads": 2, "rope_theta": 500.0},
    "llama tied": {"tie_word_embeddings": True},
    "qwen2": {"attention_bias": True, "num_key_value_heads": 1},
    "qwen3": {"qk_norm": True, "head_dim": 12, "num_key_value_heads": 2},
}


def spec_of(family: str, **more: object) -> GptModel:
    return GptModel(kind="gpt", **SIZES, **FAMILIES[family], **more)


def model_of(spec: GptModel) -> Gpt:
    torch.manual_seed(3)
    model = Gpt(spec, SHAPE.num_outputs, SHAPE.end, Randomness())
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases that are not all alike
            torch.nn.init.normal_(parameter, mean="norm" in name, std=0.3)
    return model


def exported(model: Gpt, spec: GptModel, folder):
    save_file(cpu_state(model), str(folder / WEIGHTS))
    target = folder / "exported"
    target.mkdir()
    export(spec, SHAPE, folder / WEIGHTS, None, target)
    return target


def logits(model: Gpt, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens.new_empty((len(tokens), 0)), tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_and_weights_go_both_ways(tmp_path, family):
    spec = spec_of(family)
    model = model_of(spec)
    folder = exported(model, spec, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = torch.randint(0, SHAPE.end, (3, 24), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(model, tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    saved = tmp_path / "saved"
    theirs.save_pretrained(saved)
    again = Gpt(spec, SHAPE.num_outputs, SHAPE.end, Randomness())
    check_config(str(saved), spec, SHAPE)
    told = begin_from(again, str(saved))
    assert f"begins with {len(model.state_dict())} of {len(model.state_dict())} weights" in told
    torch.testing.assert_close(logits(again, tokens), logits(model, tokens), rtol=0, atol=0)


def test_a_model_of_other_sizes_is_refused_by_key(tmp_path):
    spec = spec_of("llama")
    folder = exported(model_of(spec), spec, tmp_path)
    other = spec_of("llama", intermediate_size=96, rms_norm_eps=1e-5)
    with pytest.raises(UserError) as error:
        check_config(str(folder), other, SHAPE)
    places = {problem.place for problem in error.value.problems}
    assert places == {"model.rms_norm_eps", "model.intermediate_size"}
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="of the family `mamba`"):
        check_config(str(folder), spec, SHAPE)


def test_a_document_is_read_as_if_it_stood_alone():
    model = model_of(spec_of("llama"))
    one, two = [60, 5, 7, 9], [60, 8, 2, 4, 4]
    together = logits(model, torch.tensor([one + two]))[0]
    for document, place in ((one, slice(0, 4)), (two, slice(4, 9))):
        alone = logits(model, torch.tensor([document]))[0]
        torch.testing.assert_close(together[place], alone, rtol=1e-4, atol=1e-5)
    across = model_of(spec_of("llama", attention="sequence"))
    mixed = logits(across, torch.tensor([one + two]))[0]
    assert not torch.allclose(mixed[5:], together[5:], atol=1e-3)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("length", [24, 256, 300])
def test_blocks_of_documents_are_their_dense_mask(length):
    """Short documents, one that fills blocks, none at all; a last block that is not full."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(0, 40, (4, length), generator=generator)
    tokens[1], tokens[2, 3:] = 5, 5
    mask = block_mask(tokens, end=7)
    dense = dense_mask(tokens, end=7)
    padded = torch.zeros(4, 1, -(-length // BLOCK) * BLOCK, -(-length // BLOCK) * BLOCK).bool()
    padded[:, :, :length, :length] = dense
    blocks = padded.unflatten(2, (-1, BLOCK)).unflatten(4, (-1, BLOCK)).transpose(3, 4)
    assert torch.equal(mask.to_dense().bool(), blocks.any(-1).any(-1))
    assert (mask.full_kv_num_blocks.sum() > 0) == (length >= 2 * BLOCK)
    q, k, v = torch.randn(3, 4, 2, length, 16, generator=generator)
    with torch.no_grad():
        ours = flex_attention(q, k, v, block_mask=mask)
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, dense)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_loss_in_pieces_is_the_loss_of_all_logits(ties, dtype, monkeypatch):
    """Five tokens at a time, of 3 x 24, and a last piece of two."""
    spec = spec_of("llama", tie_word_embeddings=ties)
    tokens = torch.randint(0, SHAPE.end, (3, 24), generator=torch.Generator().manual_seed(1))
    weights = torch.rand(3, 24, generator=torch.Generator().manual_seed(2))
    loss = TokenLoss(loss_sum(LossSpec(), "language"), tokens.roll(-1, 1), weights)
    found = []
    for most in (10**9, 5 * SHAPE.num_outputs):
        monkeypatch.setattr(token_loss, "MOST_LOGITS", most)
        model = model_of(spec)
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            total = model(tokens.new_empty((3, 0)), tokens, loss)
        (total * 3).backward()
        found.append((total.detach(), [p.grad for p in model.parameters()]))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is None else {"rtol": 0.02, "atol": 0.05}
    torch.testing.assert_close(*found, **tolerance)
    whole = loss.sum_of(model(tokens.new_empty((3, 0)), tokens), loss.targets, loss.weights)
    if dtype is None:
        torch.testing.assert_close(found[0][0], whole.detach(), rtol=0, atol=0)
