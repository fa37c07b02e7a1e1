"""64-bit hashes of rows and values: the only source of chance in splitting and ordering.

SplitMix64 (Steele, Lea and Flood, 2014), vectorised; its finaliser passes every bit of the
key into every bit of the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(keys: Hashes) -> Hashes:
    """One well-mixed 64-bit number a key."""
    x = keys + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def key_of(*parts: object) -> np.uint64:
    """A 64-bit key of a few small values (seed, epoch, a path): BLAKE2b."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def row_hashes(key: np.uint64, rows: npt.NDArray[np.int64]) -> Hashes:
    """Hashes of `rows` of the file that `key` stands for."""
    return mix(rows.astype(np.uint64) * _GOLDEN ^ key)


def value_hashes(seed: int, values: Sequence[str | None]) -> Hashes:
    """A hash for each value; equal values, equal hashes, whatever else is in the data."""
    return np.fromiter((key_of(seed, value) for value in values), np.uint64, len(values))


def permutation(key: np.uint64, count: int) -> npt.NDArray[np.int64]:
    """A permutation of `count` positions that depends on `key` alone.

    Sorts 32 hashed bits by two stable passes of 16, which NumPy does by radix; ties keep
    their order.
    """
    hashes = mix(np.arange(count, dtype=np.uint64) ^ key)
    order = np.argsort(hashes.astype(np.uint16), kind="stable")
    high = (hashes >> np.uint64(48)).astype(np.uint16)
    return order.take(np.argsort(high.take(order), kind="stable"))
