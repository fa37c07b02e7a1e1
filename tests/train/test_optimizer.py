"""The optimizers are torch's own, bit for bit and by the names of their state."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from heliostat.spec.train import OptimizerSpec
from heliostat.train.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors


def theirs(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, fused=True)


@pytest.mark.parametrize(
    "settings", [{"name": "adamw"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.0}]
)
def test_steps_are_those_of_torch(settings: dict) -> None:
    spec = OptimizerSpec(learning_rate=0.05, weight_decay=0.1, **settings)
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1)) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    ours, other, loaded = build_optimizer(spec, nets[0]), theirs(spec, nets[1]), None
    for step in range(6):
        x = torch.randn(16, 5)
        if step == 3:  # a new optimizer goes on with what the old one held
            loaded = build_optimizer(spec, nets[2])
            nets[2].load_state_dict(nets[0].state_dict())
            load_optimizer_tensors(loaded, nets[2], optimizer_tensors(ours, nets[0]))
        for net, optimizer in zip(nets, (ours, other, loaded), strict=True):
            if optimizer is None:
                continue
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 0.05 / (1 + step)
            net(x).square().mean().backward()
            if step == 1:
                net[2].bias.grad = None  # left alone
            optimizer.step()
    for parameters in zip(*(net.parameters() for net in nets), strict=True):
        assert all(torch.equal(parameter, parameters[1]) for parameter in parameters)


def test_a_worker_of_one_rank_loads_neither_compiler_nor_what_cuts_models() -> None:
    code = (
        "import sys, torch, heliostat.train.network;"
        "from heliostat.spec.train import OptimizerSpec;"
        "from heliostat.train.optim import build_optimizer;"
        "net = torch.nn.Linear(2, 1); optimizer = build_optimizer(OptimizerSpec(), net);"
        "net(torch.ones(3, 2)).sum().backward(); optimizer.step();"
        "slow = {'torch._dynamo', 'torch.distributed.fsdp', 'torch.distributed.tensor'};"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
