"""A decoder-only language model of the Llama and Qwen families: RMSNorm, rotary positions,
grouped-query attention, SwiGLU.

Parameters are named as in Hugging Face's checkpoints of those families, so that their
safetensors load here, and ours there, without renaming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.models.documents import block_mask, dense_mask
from heliostat.models.randomness import HashDropout, Randomness
from heliostat.models.token_loss import TokenLoss
from heliostat.spec.model import GptModel

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Mask = Tensor | BlockMask

INIT_DEVIATION = 0.02  # GPT-2's


class Gpt(nn.Module):
    """Token codes [rows, tokens] to logits [rows, tokens, vocabulary] of each next token.

    `end` ends one document and begins the next: with `attention: document` no token sees what
    stands before the last `end`. Positions are rotary, hence relative: where in a sequence a
    document begins changes nothing.
    """

    # Heads and hidden units are divided; the sums over them are put together.
    tensor_plan: ClassVar = {
        "model.layers.*.self_attn.q_proj": "columns",
        "model.layers.*.self_attn.k_proj": "columns",
        "model.layers.*.self_attn.v_proj": "columns",
        "model.layers.*.self_attn.o_proj": "rows",
        "model.layers.*.mlp.gate_proj": "columns",
        "model.layers.*.mlp.up_proj": "columns",
        "model.layers.*.mlp.down_proj": "rows",
        "lm_head": "gathered columns",
    }
    shard_units: ClassVar = ("model.layers.*",)
    pipeline_units: ClassVar = "model.layers"
    takes_loss: ClassVar = True

    def __init__(self, spec: GptModel, vocabulary: int, end: int, randomness: Randomness) -> None:
        super().__init__()
        self.end, self.within_document = end, spec.attention == "document"
        self.vocabulary = vocabulary
        self.model = Decoder(spec, vocabulary, randomness)
        if not spec.tie_word_embeddings:
            self.lm_head = nn.Linear(spec.hidden_size, vocabulary, bias=False)
        self._initialise(spec.num_hidden_layers)

    def forward(self, numbers: Tensor, categories: Tensor, loss: TokenLoss | None = None) -> Tensor:
        """See the class; there are no numbers. With `loss`, it is what is returned."""
        x = self.transform(self.embed(numbers, categories), categories)
        if loss is None:
            return self.project(x)
        ends = [self.model.norm.weight, self._output_weight]
        return loss.of(x, self.project, ends, self.vocabulary, self._is_compiled)

    def embed(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """What the layers begin with: [rows, tokens, width]."""
        x: Tensor = self.model.embed_tokens(categories)
        return x

    def transform(self, x: Tensor, categories: Tensor) -> Tensor:
        """The layers, one after another."""
        output: Tensor = self.model(x, self._mask(categories) if self.within_document else None)
        return output

    def project(self, x: Tensor) -> Tensor:
        """The logits."""
        x = self.model.norm(x)
        if hasattr(self, "lm_head"):
            logits: Tensor = self.lm_head(x)
            return logits
        return F.linear(x, self.model.embed_tokens.weight)

    def _mask(self, tokens: Tensor) -> Mask:
        """FlexAttention pays where it is compiled for a GPU; uncompiled it would be slow."""
        of_blocks = tokens.is_cuda and self._is_compiled
        return block_mask(tokens, self.end) if of_blocks else dense_mask(tokens, self.end)

    @property
    def _output_weight(self) -> nn.Parameter:
        name = "lm_head" if hasattr(self, "lm_head") else "model.embed_tokens"
        return self.get_parameter(f"{name}.weight")

    @property
    def _is_compiled(self) -> bool:
        """Whether `nn.Module.compile` was called on the layers."""
        return any(layer._compiled_call_impl is not None for layer in self.model.layers)

    def _initialise(self, num_layers: int) -> None:
        """What adds to the residual stream is smaller, by the root of how often that is done."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * num_layers) ** -0.5 if adds else 1.0
                nn.init.normal_(parameter, std=INIT_DEVIATION * shrink)


class Decoder(nn.Module):
    """The layers, [rows, tokens, width] to the same; the embeddings before and the norm after."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, spec: GptModel, vocabulary: int, randomness: Randomness) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, spec.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(spec, number, randomness) for number in range(spec.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        cosines, sines = rotary_tables(spec.max_tokens, spec.width_of_head, spec.rope_theta)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        """See the class; `mask` says who sees whom (None: what came before)."""
        length = x.shape[1]
        for layer in self.layers:
            x = layer(x, mask, self.cosines[:length], self.sines[:length])
        return x


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each dropped out before its sum."""

    def __init__(self, spec: GptModel, number: int, randomness: Randomness) -> None:
        super().__init__()
        self.self_attn = Attention(spec)
        self.mlp = SwiGlu(spec.hidden_size, spec.feed_forward_size)
        self.input_layernorm = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        cells = spec.max_tokens * spec.hidden_size
        self.drops = nn.ModuleList(
            HashDropout(spec.dropout, cells, 2 * number + i, randomness)
            for i in range(2 if spec.dropout > 0 else 0)
        )

    def forward(self, x: Tensor, mask: Mask | None, cosines: Tensor, sines: Tensor) -> Tensor:
        """[rows, tokens, width] to the same."""
        attended = self.self_attn(self.input_layernorm(x), mask, cosines, sines)
        x = x + self._dropped(0, attended)
        return x + self._dropped(1, self.mlp(self.post_attention_layernorm(x)))

    def _dropped(self, place: int, x: Tensor) -> Tensor:
        if not len(self.drops) or not self.training:
            return x
        dropped: Tensor = self.drops[place](x.flatten(1)).view(x.shape)
        return dropped


class Attention(nn.Module):
    """Causal attention; several heads of queries share one of keys and values (Ainslie et al.,
    2023).
    """

    def __init__(self, spec: GptModel) -> None:
        super().__init__()
        width, self.head_width = spec.hidden_size, spec.width_of_head
        queries = spec.num_attention_heads * self.head_width
        shared = spec.num_shared_heads * self.head_width
        self.q_proj = nn.Linear(width, queries, bias=spec.attention_bias)
        self.k_proj = nn.Linear(width, shared, bias=spec.attention_bias)
        self.v_proj = nn.Linear(width, shared, bias=spec.attention_bias)
        self.o_proj = nn.Linear(queries, width, bias=False)
        if spec.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_width, spec.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.head_width, spec.rms_norm_eps)
        self.normed = spec.qk_norm

    def forward(self, x: Tensor, mask: Mask | None, cosines: Tensor, sines: Tensor) -> Tensor:
        """[rows, tokens, width] to the same."""

        def heads(part: Tensor) -> Tensor:
            return part.view(*part.shape[:2], -1, self.head_width)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (_rotated(part.transpose(1, 2), cosines, sines) for part in (q, k))
        mixed = _attended(q, k, v.transpose(1, 2), mask)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output


class SwiGlu(nn.Module):
    """A gated feed-forward network (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, width] to the same."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


def rotary_tables(length: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, width] of position x theta^(-2i / width) (Su et al., 2021), a
    head's two halves turned together as Llama does.
    """
    frequencies = theta ** (-torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    if mask is not None and not isinstance(mask, Tensor):
        from torch.nn.attention.flex_attention import flex_attention  # as slow as its mask's

        q, k = q.to(v.dtype), k.to(v.dtype)  # which autocast does for the other
        mixed: Tensor = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
        return mixed
    if mask is not None and q.is_cuda and len(q[0]) > len(k[0]):
        # Only kernels without a mask know shared heads; torch would compute step by step.
        k, v = (part.repeat_interleave(len(q[0]) // len(k[0]), 1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`x` is [rows, heads, tokens, width]."""
    first, second = x.chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return x * cosines.to(x.dtype) + turned * sines.to(x.dtype)
