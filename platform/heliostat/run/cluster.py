"""This process's Ray: the cluster it was pointed at, or an embedded one."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from heliostat.errors import (
    ClusterLostError,
    PlanError,
    Problem,
    StorageError,
    UserError,
    first_line,
)
from heliostat.plan.capacity import Node, capacity_problems, this_machine
from heliostat.plan.plan import Plan
from heliostat.processes import descendants, kill
from heliostat.run.embedded import start_one_node
from heliostat.run.embedded.folder import private_folder
from heliostat.run.lifeline import Lifeline
from heliostat.run.reach import check_reachable
from heliostat.signals import handlers_kept
from heliostat.storage.objects import StorePath, as_path

PROBE_SECONDS = 60
UP_SECONDS, LONGER_UP_SECONDS = 30.0, 180.0  # for a cluster in this process


@dataclass(frozen=True)
class Cluster:
    """What trainings may use. An embedded cluster has as many CPUs again for data tasks, so
    that preparation can overlap with workers that are still starting.
    """

    embedded: bool
    cpus: float
    gpus: float
    lifeline: Lifeline

    def slots(self, cpus: float, gpus: float) -> int:
        """How many trainings of this size fit at once."""
        fits = [int(self.cpus / cpus + 1e-9)] if cpus else []
        if gpus:
            fits.append(int(self.gpus / gpus + 1e-9))
        return min(fits) if fits else 1


@contextmanager
def connected(
    address: str | None,
    meanwhile: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Cluster]:
    """Connect to the cluster at `address` (or RAY_ADDRESS), else start one in this process;
    `meanwhile` is called when there is waiting to be done, `note` hears what it is for.

    Raises:
        UserError: the address is none.
        ClusterLostError: no cluster answers at the address, or it refuses us; or none came up here.
    """
    quiet_environment()
    address = address or os.environ.get("RAY_ADDRESS")
    with handlers_kept():
        cluster = _join(address, meanwhile) if address else _embed(meanwhile, note)
    try:
        # Ray prints what its raylets report; stdout is for data.
        with redirect_stdout(sys.stderr):
            yield cluster
    finally:
        own = cluster.lifeline.close()
        ray.shutdown()
        kill(own)  # what is stopped outlives its raylet


def what_starts(address: str | None) -> str:
    """What `connected` waits for, in words."""
    address = address or os.environ.get("RAY_ADDRESS")
    return f"joining the Ray cluster at {address}" if address else "starting Ray in this process"


def quiet_environment() -> None:
    """Ray's chatter off, and nothing of ours left to its defaults in the environment."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for callbacks in ("RAY_TRAIN_CALLBACKS", "RAY_TUNE_CALLBACKS", "RAY_DATA_EXECUTION_CALLBACKS"):
        os.environ.pop(callbacks, None)  # would load code that no job file names
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.tune", "ray.air", "ray.train"):  # what fails there, we tell ourselves
        logging.getLogger(name).setLevel(logging.CRITICAL)


def require_capacity(plan: Plan, cluster: Cluster) -> str:
    """Fail at once where the workers can never fit. A cluster that can grow is waited for: a
    sentence that says so.

    Raises:
        PlanError: with the sum.
    """
    beside = 0 if cluster.embedded else plan.data_cpus  # an embedded cluster has more for data
    where = "this machine" if cluster.embedded else "this cluster"
    problems = capacity_problems(plan, where, _nodes(cluster), beside)
    if not problems:
        return ""
    if cluster.embedded or not can_grow():
        raise PlanError(problems)
    minutes = plan.job.spec.limits.start_minutes
    told = "; ".join(problem.message for problem in problems)
    return f"{told} now; it can grow, which is waited for {minutes:g} minutes"


def require_capacity_here(plan: Plan) -> None:
    """The same of an embedded cluster, before it is started.

    Raises:
        PlanError: with the sum.
    """
    if problems := capacity_problems(plan, "this machine", [this_machine()]):
        raise PlanError(problems)


def is_embedded(address: str | None) -> bool:
    """Whether `connected` would start a cluster of its own."""
    return not (address or os.environ.get("RAY_ADDRESS"))


def _nodes(cluster: Cluster) -> list[Node]:
    if cluster.embedded:
        return [replace(this_machine(), gpus=cluster.gpus)]
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0)) for has in alive]


def can_grow() -> bool:
    """Whether an autoscaler may add nodes to the cluster. One that only watches names its types
    of nodes by their ids.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2  # rarely asked, and slow to load

    if is_autoscaler_v2():
        return True
    told = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(told).get("autoscaler_report") or {}) if told else {}
    types = {*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})}
    return any(not name.startswith("node_") for name in types)


def trials_at_once(plan: Plan, cluster: Cluster) -> int:
    """How many trials of a sweep run at the same time."""
    spec = plan.job.spec.tune
    assert spec is not None
    beside = 0 if cluster.embedded else plan.data_cpus
    fits = max(1, cluster.slots(plan.cpus + beside, plan.gpus))
    return fits if spec.concurrency == "auto" else min(spec.concurrency, fits)


def folds_at_once(plan: Plan, cluster: Cluster) -> int:
    """How many folds of a cross-validation without a sweep train at the same time: as many as find
    room now, if one worker is a training.
    """
    spec = plan.job.spec
    if spec.most_folds_at_once == 1:
        return 1
    free = ray.available_resources()
    if not cluster.embedded:
        cluster = replace(cluster, cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0))
    fits = cluster.slots(plan.cpus, plan.gpus)
    if memory := spec.scale.resources.memory:
        fits = min(fits, int(free.get("memory", 0.0) // memory))
    return min(spec.most_folds_at_once, max(1, fits))


def check_storage_is_shared(folder: StorePath, place: str = "storage") -> None:
    """A local folder is no storage for several nodes, unless every node sees the same files; an
    error tells where the user has named it.

    Raises:
        UserError: a node does not see what this process wrote.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    probe = folder / f".probe-{uuid.uuid4().hex}"
    secret = secrets.token_hex(8)
    probe.write_text(secret)
    try:
        answers = {
            node["NodeManagerAddress"]: _probe.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(probe))
            for node in nodes
        }
        refs = list(answers.values())
        ready, late = ray.wait(refs, num_returns=len(refs), timeout=PROBE_SECONDS)
        if late:
            hosts = sorted(host for host, ref in answers.items() if ref in late)
            raise ClusterLostError(
                f"{len(late)} of {len(nodes)} nodes of the cluster have not run a task within "
                f"{PROBE_SECONDS} s ({', '.join(hosts)})"
            )
        blind = [host for host, ref in answers.items() if ray.get(ref) != secret]
    finally:
        probe.unlink()
    is_local = isinstance(folder, Path)
    what = "is a local folder" if is_local else "is read from here"
    hint = "mount it on every node" if is_local else "give every node its credentials and network"
    if blind:
        raise UserError(
            Problem(
                place,
                f"`{folder}` {what}, and {len(blind)} of {len(nodes)} nodes do not see its files "
                f"({', '.join(sorted(blind))})",
                hint,
            )
        )


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _probe(path: str) -> str:
    try:
        return as_path(path).read_text()
    except (OSError, StorageError):
        return ""


def _join(address: str, meanwhile: Callable[[], None]) -> Cluster:
    meanwhile()
    check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
        resources = ray.cluster_resources()
    except Exception as error:  # of many types, which are Ray's own
        why = first_line(error)
        raise ClusterLostError(f"no Ray cluster at {address}: {why}") from error
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return Cluster(False, cpus, gpus, Lifeline(is_embedded=False))


def _embed(meanwhile: Callable[[], None], note: Callable[[str], None]) -> Cluster:
    private_token()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody pre-empts us here
    cores, before = os.cpu_count() or 1, descendants(os.getpid())
    try:
        start_one_node(2 * cores, meanwhile, UP_SECONDS)
    except Exception as error:  # Ray has no type of its own for it
        note(
            f"Ray did not come up: {first_line(error)}. The load is {os.getloadavg()[0]:.0f} on "
            f"{cores} CPUs; trying once more, for up to {LONGER_UP_SECONDS / 60:g} minutes"
        )
        _clear_away(before)
        try:
            start_one_node(2 * cores, lambda: None, LONGER_UP_SECONDS)
        except Exception as again:
            _clear_away(before)
            raise ClusterLostError(
                f"Ray did not come up on this machine in two attempts: {first_line(again)}. Its "
                f"logs are in {private_folder()}. Resume when the machine is less busy"
            ) from again
    gpus = ray.cluster_resources().get("GPU", 0.0)
    return Cluster(True, cores, gpus, Lifeline(is_embedded=True))


def _clear_away(before: list[int]) -> None:
    """What is left of an attempt, which Ray itself does not know of before it is up."""
    ray.shutdown()
    kill([pid for pid in descendants(os.getpid()) if pid not in before])


def private_token() -> None:
    """Make Ray's token file before Ray does, readable by its owner alone (Ray writes 0644)."""
    if any(os.environ.get(key) for key in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    token = secrets.token_hex(32)
    try:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            if path.stat().st_uid == os.getuid():
                path.chmod(0o600)
            return
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return  # another process was first
    except (OSError, RuntimeError):  # no home, or none that can be written
        os.environ["RAY_AUTH_TOKEN"] = token
        return
    with os.fdopen(handle, "w") as file:
        file.write(token)
