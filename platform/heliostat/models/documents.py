"""Who sees whom where several documents share a sequence: as a matrix, or as blocks of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # a second of import, and only GPUs use it
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # positions: what FlexAttention computes or skips at once


def dense_mask(tokens: Tensor, end: int) -> Tensor:
    """[rows, 1, tokens, tokens]: a token sees those before it in its own document."""
    document = _documents(tokens, end)
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def block_mask(tokens: Tensor, end: int) -> BlockMask:
    """The same for FlexAttention, which skips the blocks in which nobody sees anybody. It is made
    from each block's first and last document, as these only rise: never tokens x tokens values,
    and nothing that the host would wait for.
    """
    from torch.nn.attention.flex_attention import BlockMask

    document = _documents(tokens, end)
    first, last = _bounds(document)
    num_blocks, length = first.shape[1], tokens.shape[1]
    place = torch.arange(num_blocks, device=tokens.device)
    ahead = place[:, None] >= place
    sees = (last[:, None, :] >= first[:, :, None]) & ahead
    # All see all: one document, earlier blocks, and no position beyond the end.
    is_one = (first == last) & ((place + 1) * BLOCK <= length)
    whole = is_one[:, :, None] & is_one[:, None, :] & (first[:, :, None] == first[:, None, :])
    whole &= place[:, None] > place

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document[row, query] == document[row, key])

    return BlockMask.from_kv_blocks(
        *_listed(sees & ~whole), *_listed(whole), BLOCK, visible, (length, length)
    )


def _documents(tokens: Tensor, end: int) -> Tensor:
    """The number of each token's document; an end begins the next."""
    return (tokens == end).cumsum(1)


def _bounds(document: Tensor) -> tuple[Tensor, Tensor]:
    """The first and last document of each block, [rows, blocks]."""
    length = document.shape[1]
    starts = torch.arange(0, length, BLOCK, device=document.device)
    stops = (starts + BLOCK).clamp(max=length) - 1
    return document[:, starts], document[:, stops]


def _listed(sees: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each block sees, and which, those first: [rows, 1, blocks(, blocks)]."""
    order = torch.argsort((~sees).to(torch.int8), dim=-1, stable=True)
    counts = sees.sum(-1, dtype=torch.int32)
    return counts[:, None], order.to(torch.int32)[:, None].contiguous()
