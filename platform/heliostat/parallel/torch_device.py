"""The device as torch names it."""

from __future__ import annotations

import torch

from heliostat.parallel.device import Device, no_gpu


def torch_device(device: Device) -> torch.device:
    """The device, ready to be used.

    Raises:
        UserError: torch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        found = f"torch {torch.__version__} sees none"
        raise no_gpu(found, "install a torch that is built for CUDA, and the driver")
    return torch.device(device)
