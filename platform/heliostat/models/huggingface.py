"""Language models as Hugging Face keeps them: `config.json` beside safetensors. Parameters have the
same names there and here, so that only sizes need words.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.errors import Problem, UserError
from heliostat.models.predictor import Shape
from heliostat.spec.model import GptModel
from heliostat.storage.objects import as_path

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def config_of(spec: GptModel, shape: Shape) -> dict[str, Any]:
    """What `transformers` must know: the family by what sets it apart (Qwen2: biases of queries,
    keys and values; Qwen3: norms of queries and keys; else Llama).
    """
    family = "qwen3" if spec.qk_norm else "qwen2" if spec.attention_bias else "llama"
    return {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        **_sizes(spec, shape.num_outputs),
        "attention_bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "rope_theta": spec.rope_theta,  # where older versions look for it
        "bos_token_id": shape.end,
        "eos_token_id": shape.end,
        "dtype": "float32",
    }


def export(spec: GptModel, shape: Shape, weights: Path, tokenizer: Path | None, to: Path) -> None:
    """Write a folder that `transformers` loads."""
    shutil.copyfile(weights, to / WEIGHTS)
    (to / CONFIG).write_text(json.dumps(config_of(spec, shape), indent=1) + "\n")
    for file in tokenizer.iterdir() if tokenizer is not None else ():
        shutil.copyfile(file, to / file.name)


def check_config(location: str, spec: GptModel, shape: Shape) -> None:
    """Whether the model at `location`, if it says what it is, has the sizes of ours.

    Raises:
        UserError: names each key of `model` that differs, and what to write.
    """
    config = as_path(location) / CONFIG
    if not config.exists():
        return
    theirs: Mapping[str, Any] = json.loads(config.read_bytes())
    family = theirs.get("model_type")
    if family not in FAMILIES:
        what = f"`{location}` is of the family `{family}`"
        raise UserError(Problem("model.init_from", what, f"known: {', '.join(FAMILIES)}"))
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        what = f"`{location}` scales its rotary positions (`{rope['rope_type']}`)"
        raise UserError(Problem("model.init_from", what, "take a model that does not"))
    found = dict(theirs) | {
        "rope_theta": theirs.get("rope_theta", rope.get("rope_theta")),
        "attention_bias": family == "qwen2",
        "qk_norm": family == "qwen3",
        "head_dim": theirs.get("head_dim")
        or theirs["hidden_size"] // theirs["num_attention_heads"],
    }
    ours = _sizes(spec, shape.num_outputs) | {
        "rope_theta": spec.rope_theta,
        "attention_bias": spec.attention_bias,
        "qk_norm": spec.qk_norm,
    }
    problems = [
        Problem(f"model.{key}", f"is {ours[key]}, `{location}` has {found[key]}", "write that")
        for key in ours
        if found.get(key) is not None and found[key] != ours[key]
    ]
    if problems:
        raise UserError(problems)


def _sizes(spec: GptModel, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.feed_forward_size,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_shared_heads,
        "head_dim": spec.width_of_head,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_word_embeddings,
    }
