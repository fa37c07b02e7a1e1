"""A Ray of one node in this process, without what only clusters of machines need.

`ray.init` has no words for that, so that names of Ray's own are replaced while it runs; a test
looks at the processes that come of it. Those parts are about four seconds of a short run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import node, parameter, services, utils
from ray._private.ray_constants import PROCESS_TYPE_DASHBOARD_AGENT, PROCESS_TYPE_RAYLET

from heliostat.plan.memory import machine_memory_bytes
from heliostat.run.embedded.folder import private_folder

LOOPBACK = "127.0.0.1"
GCS_WAIT = "RAY_gcs_server_port_wait_time_s"
LOOK_SECONDS = 0.02
HERE = Path(__file__).parent
SHARED_MEMORY = "/dev/shm"  # where it cannot be written, objects lie on the disk


def start_one_node(cpus: int, meanwhile: Callable[[], None], up_seconds: float) -> None:
    """`ray.init` of a cluster with so many CPUs, which may take about `up_seconds`. `meanwhile` is
    called once its processes are on their way: what it begins to do delays none of them.

    Raises:
        Exception: of whatever type Ray has for it.
    """
    os.environ[GCS_WAIT] = str(int(up_seconds))
    with ExitStack() as changes:
        for place, name, value in _changes(meanwhile, up_seconds):
            changes.enter_context(_replaced(place, name, value))
        ray.init(
            address="local",
            num_cpus=cpus,
            _memory=machine_memory_bytes(),
            _plasma_directory=None if os.access(SHARED_MEMORY, os.W_OK) else str(private_folder()),
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(private_folder() / "ray"),
            log_to_driver=False,
            configure_logging=False,
            _system_config={"prestart_worker_first_driver": False},
        )


def _changes(meanwhile: Callable[[], None], up_seconds: float) -> Iterator[tuple[Any, str, Any]]:
    """What of Ray is another while it starts, and why."""
    # No autoscaler, which is waited for at the end; no forwarder of logs, to which nobody listens.
    lean = {"no_monitor": True, "include_log_monitor": False}
    own = {"setup_worker_path": "setup_worker.py", "worker_path": "worker.py"}
    paths = {key: str(HERE / name) for key, name in own.items()}
    yield parameter, "RayParams", partial(parameter.RayParams, **lean, **paths)
    # No server of a dashboard that is off.
    yield node.Node, "start_api_server", lambda self, **settings: None
    # Ray makes the loopback address the machine's own, and then listens on every address there is.
    yield services, "resolve_ip_for_localhost", lambda host: host
    # Ray loads a web server to see whether it could.
    yield utils, "get_dashboard_dependency_error", lambda: ImportError("there is no dashboard")
    command_of = services._build_python_executable_command_memory_profileable

    def command(component: str, *arguments: Any, **settings: Any) -> list[str]:
        stands_in = component == PROCESS_TYPE_DASHBOARD_AGENT
        return command_of(component, *arguments, **settings) + [str(HERE / "agent.py")] * stands_in

    yield services, command_of.__name__, command
    # Ray's processes take no signals meant for this one's group, nor lose its terminal.
    yield services, "ConsolePopen", partial(services.ConsolePopen, start_new_session=True)
    start = node.Node.start_raylet

    def started(self: Any, *arguments: Any, **settings: Any) -> None:
        start(self, *arguments, **settings)
        meanwhile()
        # Ray itself would look once a second whether its node is up.
        deadline = time.monotonic() + up_seconds
        while not self.get_gcs_client().get_all_node_info() and time.monotonic() < deadline:
            if self.all_processes[PROCESS_TYPE_RAYLET][0].process.poll() is not None:
                raise RuntimeError("its raylet has died")
            time.sleep(LOOK_SECONDS)

    yield node.Node, "start_raylet", started


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)
