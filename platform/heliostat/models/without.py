"""Libraries that others import at once and we never use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


@contextmanager
def without(library: str, importer: str) -> Iterator[None]:
    """Import `importer` in here, in this thread, as if there was no `library`, if neither is loaded
    yet.

    XGBoost imports scikit-learn, a second and more, as the base of classes that we never use; skops
    imports all of scikit-learn, and with it torch, two seconds, to know the names of its classes.
    """
    if library in sys.modules or importer in sys.modules:
        yield
        return
    absent = _Absent(library)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


class _Absent(MetaPathFinder):
    """Finds out that a library is not there."""

    def __init__(self, library: str) -> None:
        self._library, self._thread = library, threading.get_ident()

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the library; leave all else to other finders."""
        if name == self._library and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
