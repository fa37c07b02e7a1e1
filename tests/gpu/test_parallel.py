"""Process groups and cut models on a GPU: all that one card can show."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from heliostat.models import token_loss
from heliostat.models.gpt import Gpt
from heliostat.models.randomness import Randomness
from heliostat.parallel.apply import gradient_norm, is_cut, whole_tensors
from heliostat.parallel.world import TorchWorld, broadcast
from heliostat.spec.model import GptModel
from heliostat.spec.train import LossSpec
from heliostat.train.losses import loss_sum
from tests.conftest import free_port

SPEC = GptModel(kind="gpt", max_tokens=32, hidden_size=32, num_hidden_layers=2)


@pytest.fixture
def world(device):
    """One rank of the device's own process group: NCCL on a GPU."""
    world = TorchWorld(0, 1, f"127.0.0.1:{free_port()}", 60.0, device=device)
    yield world
    world.close()


def test_ranks_sum_exactly_and_send_bytes(world, device):
    values = np.array([1e300, 2.0**-60, -3.0])
    assert world.sum(values).tolist() == values.tolist()
    assert broadcast(world, b"the same everywhere") == b"the same everywhere"
    backend = torch.distributed.get_backend()
    assert backend == ("nccl" if device == "cuda" else "gloo")


def test_a_sharded_model_learns_as_the_whole_one(world, device, monkeypatch):
    """With its loss in pieces, of 50 of 128 tokens."""
    monkeypatch.setattr(token_loss, "MOST_LOGITS", 50 * 257)
    torch.manual_seed(3)
    whole = Gpt(SPEC, 257, 256, Randomness()).to(device)
    cut = copy.deepcopy(whole)
    mesh = init_device_mesh(device, (1,))
    for layer in cut.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(cut, mesh=mesh)
    assert is_cut(cut) and not is_cut(whole)
    tokens = torch.randint(257, (4, 32), device=device)
    num_pieces = 0

    def loss_of(logits, targets, weights):
        nonlocal num_pieces
        num_pieces += 1
        return loss_sum(LossSpec(), "language")(logits, targets, weights)

    loss = token_loss.TokenLoss(loss_of, tokens.roll(-1, 1), torch.ones(4, 32, device=device) / 128)
    for model in (whole, cut):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            model(tokens.new_empty(4, 0), tokens, loss).backward()
            assert torch.isfinite(gradient_norm(list(model.parameters()), None))
            optimizer.step()
    assert num_pieces == 2 * 3 * 3
    gathered = dict(whole_tensors(cut, cut.state_dict()))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(gathered[name], tensor, rtol=1e-4, atol=1e-5)
