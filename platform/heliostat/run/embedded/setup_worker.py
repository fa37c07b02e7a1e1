"""Sets the environment variables of a worker process, then becomes it. Ray's own script of this
name loads all of Ray to do so, before the worker does it again; it is still called for all else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Be called like Ray's own: the worker's script, its arguments, and the environment."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", dest="context", default="{}")
    parser.add_argument("--language")
    options, worker = parser.parse_known_args()
    context = json.loads(options.context)
    variables = context.pop("env_vars", None) or {}
    is_ours = context.pop("py_executable", sys.executable) == sys.executable
    if not is_ours or any(context.values()) or any("$" in value for value in variables.values()):
        package = find_spec("ray")
        assert package is not None and package.origin is not None
        own = Path(package.origin).parent / "_private" / "workers" / Path(__file__).name
        os.execv(sys.executable, [sys.executable, str(own), *sys.argv[1:]])
    os.execve(sys.executable, [sys.executable, *worker], os.environ | variables)


if __name__ == "__main__":
    main()
