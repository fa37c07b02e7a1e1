"""Streams of a process that was started without some, or outlives who reads them: a terminal that
was closed, a pipe that nobody reads any more.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EIO, errno.EPIPE, errno.ENXIO, errno.EBADF, errno.ECONNRESET)


def open_streams() -> None:
    """Make the three standard streams be there: a file opened in the place of one that is closed
    would get what libraries write to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8"
    )
    sys.stdout = sys.stdout or _writer(1)
    sys.stderr = sys.stderr or _writer(2)


def _writer(number: int) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), "utf-8")


def outlive_readers() -> None:
    """From now on what cannot be written to stdout or stderr is dropped; the run's own log has it.
    What libraries write to them from C, too.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or it is a test's
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Lasting(number, "wb", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


class _Lasting(io.FileIO):
    def write(self, content: Any) -> int:
        """See `io.FileIO`; what nobody can read counts as written."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return len(content)
