"""A file that grows by lines. On a file system it is appended to; an object store cannot, so
there the lines are kept here and put as a whole each time.
"""

from __future__ import annotations

from heliostat.storage.files import on_full_disk
from heliostat.storage.objects import ObjectPath, StorePath


class Lines:
    """Appends to a file that this process alone writes."""

    def __init__(self, path: StorePath) -> None:
        self.path = path
        self._kept: list[str] = []

    def append(self, text: str) -> None:
        """Write whole lines, and flush them."""
        if isinstance(self.path, ObjectPath):
            self._kept.append(text)
            self.path.write_text("".join(self._kept))
            return
        with on_full_disk(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(text)
