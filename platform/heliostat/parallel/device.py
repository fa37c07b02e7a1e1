"""Which device computes: a GPU where `scale.resources.gpu` asks for one, else the CPU.

`HELIOSTAT_DEVICE` decides otherwise: `cpu` keeps a job that asks for GPUs off them, and `cuda` has
`predict` and `evaluate` score on a GPU, which by default they leave alone.
"""

from __future__ import annotations

import os
from typing import Literal

from heliostat.errors import Problem, UserError

VARIABLE = "HELIOSTAT_DEVICE"
Device = Literal["cpu", "cuda"]


def training_device(num_gpus: float) -> Device:
    """Where a worker that holds `num_gpus` GPUs trains.

    Raises:
        UserError: `HELIOSTAT_DEVICE` names no device.
    """
    return "cuda" if num_gpus > 0 and _wish() != "cpu" else "cpu"


def scoring_device() -> Device:
    """Where a finished model scores; on the CPU the scores have the same bits on every machine.

    Raises:
        UserError: `HELIOSTAT_DEVICE` names no device.
    """
    return "cuda" if _wish() == "cuda" else "cpu"


def no_gpu(found: str, remedy: str) -> UserError:
    """A GPU is asked for, and a library cannot use one."""
    asked = f"`scale.resources.gpu` (or `{VARIABLE}`) asks for a GPU, and {found}"
    return UserError(Problem("", asked, f"{remedy}, or set `{VARIABLE}=cpu`"))


def _wish() -> str:
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "cpu", "cuda"):
        raise UserError(Problem(VARIABLE, f"`{wish}` is no device", "write `cpu` or `cuda`"))
    return wish
