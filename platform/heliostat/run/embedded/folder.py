"""Where an embedded Ray keeps its logs and sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

LONGEST_BASE = 24  # the path of a socket holds 107 bytes, and Ray and we add up to 83
SHORT_BASE = Path("/tmp")


def private_folder() -> Path:
    """A folder that nobody else may enter: what Ray makes in it, it opens to all users."""
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(os.fsencode(base)) > LONGEST_BASE and os.access(SHORT_BASE, os.W_OK):
        base = SHORT_BASE
    folder = base / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody was there first
        return Path(tempfile.mkdtemp(prefix="ray-", dir=base))
    folder.chmod(0o700)
    return folder
