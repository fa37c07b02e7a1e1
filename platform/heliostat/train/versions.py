"""Which library versions made a result."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

LIBRARIES = ("heliostat", "ray", "torch", "xgboost", "scikit-learn", "pyarrow", "numpy")


@cache
def versions() -> dict[str, str]:
    """Installed versions by library, and Python's."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
