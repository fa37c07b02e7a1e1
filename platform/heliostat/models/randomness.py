"""Stateless randomness: a draw is a function of (seed, step, layer, row, column), not of a
generator's past. So dropout is the same on any number of workers, and after any resume.

The integer mixing is "lowbias32" (Wellons, 2018, found by search for low bias).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

_ROW_FACTOR = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit number
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32


class Randomness:
    """Where a step's draws come from; the training loop sets it before each forward pass."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._step = 0
        self._rows: Tensor | None = None
        self._keys: Tensor | None = None
        self.outside: Callable[[Randomness], Tensor | None] | None = None

    def stay_outside(self) -> None:
        """Let what torch compiles ask for keys without looking into how they come about. Not from
        the beginning: it loads the compiler.
        """
        self.outside = torch.compiler.disable(_row_keys)  # type: ignore[no-untyped-call]

    def set(self, step: int, rows: Tensor) -> None:
        """Key the coming draws by `step` and the global number of each row ([rows] int64)."""
        self._step, self._rows, self._keys = step, rows, None

    @property
    def row_keys(self) -> Tensor | None:
        """A key for each row, [rows] int32; made when it is first asked for."""
        if self._keys is None and self._rows is not None:
            key = (self.seed * 0x9E3779B1 + self._step * 0x85EBCA77 + 0x165667B1) % 2**63
            mixed = (self._rows + key) * _ROW_FACTOR
            mixed = (mixed ^ (mixed >> 32)) * _ROW_FACTOR
            self._keys = (mixed >> 32).to(torch.int32)
        return self._keys

    def remembered(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For a forward pass that is computed again when other rows have come since: a context for
        now, and one in which the draws of now come again.
        """
        return nullcontext(), self._again(self._step, self._rows)

    @contextmanager
    def _again(self, step: int, rows: Tensor | None) -> Iterator[None]:
        now = self._step, self._rows, self._keys
        self._step, self._rows, self._keys = step, rows, None
        yield
        self._step, self._rows, self._keys = now


class HashDropout(nn.Module):
    """Dropout whose mask is a hash: equal for a row whatever worker or batch it is in."""

    columns: Tensor

    def __init__(self, probability: float, width: int, layer: int, randomness: Randomness) -> None:
        super().__init__()
        self.probability, self.randomness = probability, randomness
        columns = mix(torch.arange(width, dtype=torch.int32) + layer * 0x1000193)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [rows, width]."""
        keys = row_keys_of(self.randomness)
        if not self.training or self.probability == 0 or keys is None:
            return x
        bits = mix(keys[:, None] ^ self.columns) & 0x7FFFFFFF
        kept = bits >= int(self.probability * 2**31)
        return x * kept * (1 / (1 - self.probability))


def row_keys_of(randomness: Randomness) -> Tensor | None:
    """Its keys, from outside of what is compiled: they change with the step."""
    return randomness.row_keys if randomness.outside is None else randomness.outside(randomness)


def _row_keys(randomness: Randomness) -> Tensor | None:
    return randomness.row_keys


def mix(x: Tensor) -> Tensor:
    """Mix 32-bit integers; each bit of the result depends on every bit of `x`."""
    x = (x ^ _shift(x, 16)) * _FIRST
    x = (x ^ _shift(x, 15)) * _SECOND
    return x ^ _shift(x, 16)


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical right shift; torch's own copies the sign."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)
