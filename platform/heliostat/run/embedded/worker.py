"""A worker process of Ray that ends with its raylet.

Ray's own sees that its raylet has died by being a child of process 1; where orphans go to another
process (a user's systemd, for one), it would never end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Be called like Ray's own, which then runs in this very process."""
    end_with_parent()
    raylet = os.environ.get("RAY_RAYLET_PID", "")
    if raylet.isdigit() and os.getppid() != int(raylet):
        sys.exit(1)  # it has died meanwhile
    package = find_spec("ray")
    assert package is not None and package.origin is not None
    own = Path(package.origin).parent / "_private" / "workers" / "default_worker.py"
    sys.path[0] = str(own.parent)
    runpy.run_path(str(own), run_name="__main__")


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
