"""Model FLOPs utilization (Chowdhery et al., 2022, PaLM, appendix B): the arithmetic of the model
that a second does, as a share of what its GPUs can do at most.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from heliostat.plan.columns import Columns
from heliostat.plan.size import network_size
from heliostat.spec.job import JobSpec

Utilization = Callable[[float], float | None]

# TFLOP/s of a card in float32, and in bfloat16 or float16 on tensor cores without sparsity: from
# NVIDIA's data sheets. The first whose words a card's name has counts.
CARDS = {
    "B200": (75, 2250),
    "H200": (67, 989),
    "GH200": (67, 989),
    "H100 NVL": (60, 835),
    "H100 PCIe": (51, 756),
    "H100": (67, 989),
    "A100": (19.5, 312),
    "L40S": (91.6, 362),
    "L4": (30.3, 121),
    "A10": (31.2, 125),
    "V100": (15.7, 125),
    "T4": (8.1, 65),
}


def utilization_of(
    spec: JobSpec, columns: Columns, device: torch.device | str, num_devices: int
) -> Utilization:
    """The share that so many rows a second make of `num_devices` cards; None of a CPU, of a card
    not known here, and of a network whose arithmetic its columns do not tell.
    """
    size = network_size(spec, columns)
    if torch.device(device).type != "cuda" or size is None or not size.exact:
        return lambda rows_per_second: None
    rate = card_flops(torch.cuda.get_device_name(device), spec.train.precision)
    if rate is None:
        return lambda rows_per_second: None
    share = size.flops_per_row / (rate * num_devices)
    return lambda rows_per_second: rows_per_second * share


def card_flops(name: str, precision: str) -> float | None:
    """Operations a second, at most, of the card that calls itself `name`."""
    for card, (single, half) in CARDS.items():
        if f" {card} " in f" {name.replace('-', ' ')} ":
            return 1e12 * (single if precision == "float32" else half)
    return None
