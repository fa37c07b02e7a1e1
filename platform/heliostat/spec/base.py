"""The base of all spec classes, and the literals they share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "K": 10**3, "M": 10**6}
_UNITS |= {"k": 10**3, "G": 10**9, "T": 10**12}
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)([KMGT]i?|k)?", re.ASCII)
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Spec(BaseModel):
    """A frozen value that refuses keys it does not know and types it would have to guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse_bytes(value: object) -> object:
    """`2Gi`, `500M` or a plain number of bytes, as bytes (Kubernetes' notation)."""
    if isinstance(value, str):
        match = _BYTES.fullmatch(value)
        if not match:
            raise ValueError(f"`{value}` is no size; write it like 2Gi or 500M")
        return int(float(match[1]) * _UNITS[match[2] or ""])
    return value


def parse_duration_seconds(value: str) -> float | None:
    """`7d`, `12h`, `30m`, `45s` or `2w` in seconds; None if `value` is no duration."""
    match = _DURATION.fullmatch(value)
    return float(match[1]) * _SECONDS[match[2]] if match else None


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
