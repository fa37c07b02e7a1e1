"""TensorBoard's event files, as far as scalars need them.

A file is a sequence of TFRecords (length, its checksum, content, its checksum; checksums are
CRC-32C, RFC 3720, masked), and each content is a protobuf message `tensorflow.Event`.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from pathlib import Path

FILE_VERSION = "brain.Event:2"
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


class EventFile:
    """A new event file in `folder`, which must exist."""

    def __init__(self, folder: Path) -> None:
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._file = (folder / name).open("wb")
        self._write(_when(now / 1e9) + _text(3, FILE_VERSION))

    def purge(self, step: int) -> None:
        """What other files of the folder hold from `step` on no longer counts."""
        session_started = b"\x08\x01"
        self._write(_step(step) + _text(3, FILE_VERSION))
        self._write(_step(step) + _bytes(7, session_started))

    def scalar(self, name: str, value: float, step: int, when: float) -> None:
        """One value; `when` in seconds since 1970."""
        tag = re.sub(r"[^-/\w.]", "_", name).lstrip("/")
        own = _text(1, tag) + b"\x15" + struct.pack("<f", value)
        self._write(_when(when) + _step(step) + _bytes(5, _bytes(1, own)))

    def flush(self) -> None:
        """Let readers see what was written."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _when(seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds)


def _step(step: int) -> bytes:
    return b"\x10" + _varint(step)


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first; all but the last byte have the high bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()
