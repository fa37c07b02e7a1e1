"""Model FLOPs utilization is arithmetic over what a card can do, or is not told."""

from __future__ import annotations

import pytest
import torch

from heliostat.plan.size import network_size
from heliostat.train.utilization import card_flops, utilization_of
from tests.data.packing import plan_of

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "precision", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 80GB HBM3", "float32", 67e12),
        ("NVIDIA H100 PCIe", "float16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12),
        ("Tesla T4", "float16", 65e12),
        ("NVIDIA L40", "bfloat16", None),  # neither an L4 nor an L40S
        ("NVIDIA A10G", "bfloat16", None),
    ],
)
def test_a_card_is_known_by_the_words_of_its_name(name, precision, flops):
    assert card_flops(name, precision) == flops


def test_the_share_is_of_all_cards(make_job, table, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    data = f"data: {{source: {table}, target: late, task: binary, features: {{x: number}}}}"
    plan = plan_of(make_job(data=data, model="model: {kind: mlp}", train="train: {batch_size: 64}"))
    spec, columns = plan.job.spec, plan.columns
    flops = network_size(spec, columns).flops_per_row
    told = utilization_of(spec, columns, CUDA, 4)
    assert told(1e6) == pytest.approx(1e6 * flops / (4 * 67e12))
    assert utilization_of(spec, columns, CPU, 4)(1e6) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another card")
    assert utilization_of(spec, columns, CUDA, 4)(1e6) is None
