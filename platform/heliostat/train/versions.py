"""Which library versions made a result."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

LIBRARIES = ("heliostat", "ray", "torch", "xgboost", "scikit-learn", "pyarrow", "numpy")
BUILDS = {"xgboost": "xgboost-cpu"}  # the same library under another name


@cache
def versions() -> dict[str, str]:
    """Installed versions by library, and Python's."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = _version(name) or _version(BUILDS.get(name, name)) or "not installed"
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
