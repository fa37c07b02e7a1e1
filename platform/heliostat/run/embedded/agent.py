"""Stands in for the agent of Ray's dashboard, for whose web server and reports a node waits before
it is up: says that there are none, and ends with its node.
"""

from __future__ import annotations

import argparse
import os
import time

from ray._raylet import (  # type: ignore[attr-defined]
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    persist_port,
)

NOT_SERVED = -1  # Ray's own word for it, where the dashboard is not installed
LOOK_SECONDS = 0.5


def main() -> None:
    """Be called like Ray's own, with its path before its arguments."""
    node = int(os.environ["RAY_RAYLET_PID"])  # as Ray's own does: it may be gone by now
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--node-id", required=True)
    options, _ = parser.parse_known_args()
    for name in (
        METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME
    ):  # fmt: skip
        persist_port(options.session_dir, options.node_id, name, NOT_SERVED)
    while os.getppid() == node:
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
