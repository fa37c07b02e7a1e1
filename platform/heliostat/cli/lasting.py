"""Output that a run outlives: of a terminal that was closed, or a pipe that nobody reads."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EIO, errno.EPIPE, errno.ENXIO, errno.EBADF, errno.ECONNRESET)


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
