"""The word to all lanes that their sweep ends: commit a checkpoint and stop.

A file beside the run, because a lane answers nobody before it has come to its next rung.
"""

from __future__ import annotations

import time

from heliostat.storage.files import write_json
from heliostat.storage.objects import ObjectPath, StorePath, as_path

LOOK_SECONDS, LOOK_AWAY_SECONDS = 0.5, 3.0  # on a file system; in an object store


class Pause:
    """`place` is this attempt's own file."""

    def __init__(self, place: str | StorePath) -> None:
        self.place = as_path(place) if isinstance(place, str) else place
        is_away = isinstance(self.place, ObjectPath)
        self._look_seconds = LOOK_AWAY_SECONDS if is_away else LOOK_SECONDS
        self._looked, self._is_wanted = 0.0, False

    def ask(self) -> None:
        """Give the word."""
        write_json(self.place, {"what": "the sweep ends; trials commit a checkpoint"})

    def is_wanted(self) -> bool:
        """Whether the word was given; looks only so often."""
        now = time.monotonic()
        if not self._is_wanted and now - self._looked > self._look_seconds:
            self._looked, self._is_wanted = now, self.place.is_file()
        return self._is_wanted

    def forget(self) -> None:
        """Take the file away: the sweep has ended."""
        self.place.unlink(missing_ok=True)
