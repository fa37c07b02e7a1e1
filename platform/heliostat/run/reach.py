"""Whether a Ray cluster answers at an address: known in seconds, where Ray tries for minutes."""

from __future__ import annotations

import os
import socket
import threading

from ray._private.services import find_node_ids
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from heliostat.errors import ClusterLostError, Problem, UserError

PORTS = range(1, 65536)
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
BY_ITSELF = ("auto", "local")  # Ray finds it, or says at once that there is none
FORM = "give HOST:PORT of its head, such as 10.0.0.1:6379"


def check_reachable(address: str) -> None:
    """Fail with a sentence unless a cluster answers.

    Raises:
        UserError: the address is none.
        ClusterLostError: nobody answers there, or what answers is no Ray cluster.
    """
    if address in BY_ITSELF:
        return
    where = _host_and_port(address)
    try:
        socket.create_connection(where, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = error.strerror or f"no answer in {CONNECT_SECONDS:g} s"
        raise ClusterLostError(f"no Ray cluster answers at {address}: {why}") from None
    if address.startswith("ray://"):
        return
    _ask(address)
    if not find_node_ids():
        raise ClusterLostError(
            f"no node of the Ray cluster at {address} is on this machine: join it here with "
            f"`ray start --address={address}`, or send the job with `heliostat submit`"
        )


def _host_and_port(address: str) -> tuple[str, int]:
    key = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") == address else "--address"
    scheme, _, rest = address.rpartition("://")
    if scheme.startswith("http"):
        what = f"`{address}` is a dashboard's, to which `heliostat submit` sends jobs"
        raise UserError(Problem(key, what, FORM))
    host, _, port = rest.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdecimal() or int(port) not in PORTS:
        raise UserError(Problem(key, f"`{address}` is no address of a Ray cluster", FORM))
    return host.strip("[]"), int(port)


def _ask(address: str) -> None:
    """In a thread: Ray's client cannot be told how long to try."""
    answer: list[str] = []

    def ask() -> None:
        try:
            GcsClient(address=address)
            answer.append("")
        except Exception as error:  # of many types, which are Ray's own
            answer.append((str(error) or type(error).__name__).splitlines()[0])

    thread = threading.Thread(target=ask, daemon=True, name="reach")
    thread.start()
    thread.join(ANSWER_SECONDS)
    if answer == [""]:
        return
    silence = f"something listens there, but says nothing in {ANSWER_SECONDS:g} s"
    why = answer[0] if answer else silence
    raise ClusterLostError(f"no Ray cluster answers at {address}: {why}")
