"""Memory of a GPU: shares of it, and what happens where it ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heliostat.errors import TrainError
from heliostat.train.network import device_of

ROWS = 64


def hungry(share: float, micro: int | str = "auto") -> dict:
    """A network that needs `share` of the card's memory for a whole batch."""
    return {
        "code": "code: {path: .}",
        "model": f"model: {{kind: custom, class: 'mine.nets:Hungry', args: {{share: {share}, rows: {ROWS}}}}}",
        "train": f"train: {{steps: 4, batch_size: {ROWS}, validate_every: 4}}",
        "data": "",
        "scale": {"micro_batch_size": micro},
    }


@pytest.fixture
def fed(train, table, device):
    """Train a hungry network."""

    def trained(share: float, micro: int | str = "auto", name: str = "model"):
        parts = hungry(share, micro) | {
            "data": f"data: {{source: {table}, target: late, task: binary, features: {{x: number, z: number}},"
            " split: {method: random, validation: 0, test: 0}}"
        }
        return train(device, name, **parts)

    return trained


def test_micro_batches_are_halved_until_they_fit(fed):
    """All rows would take three cards, half of them one and a half, a quarter fits."""
    small = fed(3.0, name="small")
    plain = fed(0.0, name="plain")
    np.testing.assert_allclose(small.losses, plain.losses, rtol=1e-4)
    with pytest.raises(
        TrainError, match=rf"with {ROWS} rows at a time.*micro_batch_size: {ROWS // 2}"
    ):
        fed(3.0, micro=ROWS, name="fixed")


def test_a_trial_keeps_to_its_share_of_the_card(train, fed, device):
    assignment = fed(0.0).assignment
    half = replace(assignment, job=dict(assignment.job) | {"scale": {"resources": {"gpu": 0.5}}})
    assert device_of(half).type == "cuda" or device == "cpu"
    try:
        if device == "cpu":
            return
        total = torch.cuda.get_device_properties(0).total_memory
        torch.empty(int(0.3 * total), dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.6 * total), dtype=torch.uint8, device=device)
        device_of(replace(half, is_alone=True))
        torch.empty(int(0.6 * total), dtype=torch.uint8, device=device)
    finally:
        device_of(assignment)
        if device == "cuda":
            torch.cuda.empty_cache()
