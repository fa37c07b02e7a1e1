"""Checkpoints written beside training: the loop goes on while files are flushed and committed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from heliostat.train.events import Committed

Save = Callable[[], Committed | None]


class Saver:
    """Saves one checkpoint at a time. What is saved must be a copy: training changes its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._committed: list[Committed] = []
        self._error: BaseException | None = None

    def start(self, save: Save) -> None:
        """Begin to save, once the one before has been committed. `save` tells what it committed, if
        this rank commits.

        Raises:
            HeliostatError: as the one before did.
        """
        self._wait()
        self._thread = threading.Thread(target=self._save, args=(save,), name="checkpoint")
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

    def _save(self, save: Save) -> None:
        try:
            committed = save()
            if committed is not None:
                self._committed.append(committed)
        except BaseException as error:  # raised again where training sees it
            self._error = error
