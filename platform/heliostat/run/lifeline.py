"""Whether the Ray that this process depends on still lives: asked by whoever waits for it.

Ray itself tries for a minute to reach a head that is gone, then ends the process with exit status
1; and without its own node a driver waits for ever.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import ray

from heliostat.processes import descendants

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 45.0  # a head may come back; below Ray's own minute
ALIVE = 0  # GcsNodeInfo.GcsNodeState


class Lifeline:
    """Of a cluster that this process has started (its daemons are our children), or joined."""

    def __init__(self, is_embedded: bool) -> None:
        self._node: Any = ray._private.worker._global_node
        self._id = bytes.fromhex(ray.get_runtime_context().get_node_id())
        self._is_embedded = is_embedded
        self._trouble = ""
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="lifeline").start()

    def trouble(self) -> str:
        """What has become of Ray, in a sentence; empty as long as it lives."""
        if self._is_embedded and not self._over.is_set():
            self._trouble = self._trouble or self._dead_daemon()
        return self._trouble

    def close(self) -> list[int]:
        """Look no longer: Ray goes down. The processes that its daemons here have started."""
        self._over.set()
        if not self._is_embedded:
            return []
        infos = [info for of_kind in self._node.all_processes.values() for info in of_kind]
        return [pid for info in infos for pid in descendants(info.process.pid)]

    def _dead_daemon(self) -> str:
        for name, infos in list(self._node.all_processes.items()):
            for info in infos:
                if info.process.poll() is not None:
                    where = f"{self._node.get_logs_dir_path()}/{name}.err"
                    return f"Ray's {name} (process {info.process.pid}) has died; see {where}"
        return ""

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            try:
                nodes = self._node.get_gcs_client().get_all_node_info(timeout=ANSWER_SECONDS)
            except Exception:  # of many types, which are Ray's own
                if time.monotonic() - heard > SILENCE_SECONDS:
                    self._trouble = (
                        f"the head of the Ray cluster at {self._node.gcs_address} has not "
                        f"answered for {SILENCE_SECONDS:g} s"
                    )
                continue
            heard, self._trouble = time.monotonic(), ""
            own = {id_.binary(): info for id_, info in nodes.items()}.get(self._id)
            if own is None or own.state != ALIVE:
                self._trouble = (
                    f"the Ray cluster at {self._node.gcs_address} has lost this machine's node: "
                    "its raylet has died, or cannot be reached"
                )
