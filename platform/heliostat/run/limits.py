"""When a run must end: by hours, or by GPU-hours, whichever comes first."""

from __future__ import annotations

from dataclasses import dataclass

from heliostat.spec.scale import LimitsSpec


@dataclass(frozen=True)
class Deadline:
    """A time on this process's monotonic clock (None: never), and the limit that sets it."""

    at: float | None
    limit: str


def deadline_of(limits: LimitsSpec, started: float, now: float, gpus: float) -> Deadline:
    """The deadline of a run that began at `started` and holds `gpus` GPUs from `now` on."""
    found = []
    if limits.hours is not None:
        found.append((started + limits.hours * 3600, "limits.hours"))
    if limits.gpu_hours is not None and gpus > 0:
        found.append((now + limits.gpu_hours * 3600 / gpus, "limits.gpu_hours"))
    return Deadline(*min(found)) if found else Deadline(None, "")
