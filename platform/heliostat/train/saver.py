"""Checkpoints written beside training: the loop goes on while files are flushed and committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heliostat.train.checkpoint import Checkpoints
from heliostat.train.events import Committed


class Saver:
    """Saves one checkpoint at a time. What is saved must be a copy: training changes its own."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._committed: list[Committed] = []
        self._error: BaseException | None = None

    def start(self, manifest: Mapping[str, Any], write: Callable[[Path], None], best: bool) -> None:
        """Begin to save, once the one before has been committed.

        Raises:
            HeliostatError: as the one before did.
        """
        self._wait()
        arguments = (dict(manifest), write, best)
        self._thread = threading.Thread(target=self._save, args=arguments, name="checkpoint")
        self._thread.start()

    def committed(self, wait: bool = False) -> list[Committed]:
        """What has been committed since the last call; with `wait`, all that was begun.

        Raises:
            HeliostatError: what kept a checkpoint from being committed.
        """
        if wait or (self._thread is not None and not self._thread.is_alive()):
            self._wait()
        found, self._committed = self._committed, []
        return found

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _save(self, manifest: dict[str, Any], write: Callable[[Path], None], best: bool) -> None:
        try:
            self.checkpoints.save(manifest, write, best)
            self._committed.append(Committed(int(manifest["step"]), best))
        except BaseException as error:  # raised again where training sees it
            self._error = error
