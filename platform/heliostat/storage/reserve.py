"""Room for last words: a file that is given up when the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

from heliostat.storage.files import on_full_disk
from heliostat.storage.objects import StorePath

FILE = ".reserve"
RESERVED_BYTES = 64 * 2**10


class Reserve:
    """Holds some room on the disk of a folder; an object store has no such thing as a full disk.

    Raises:
        StorageError: there is no room now.
    """

    def __init__(self, folder: StorePath) -> None:
        self._path = folder / FILE if isinstance(folder, Path) else None
        if self._path is not None:
            with on_full_disk(self._path), self._path.open("wb") as handle:
                os.posix_fallocate(handle.fileno(), 0, RESERVED_BYTES)

    def release(self) -> None:
        """Give the room back."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
