"""The nodes of a running Ray cluster, as its dashboard tells them; without loading Ray."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from heliostat.errors import LaunchError
from heliostat.launch.placement import Node
from heliostat.launch.token import headers_of
from heliostat.spec.site import AddressCluster

NODES = "/api/v0/nodes?limit=10000&detail=1"  # Ray's State API
ANSWER_SECONDS = 10.0


def nodes_of(cluster: AddressCluster) -> list[Node]:
    """The living nodes.

    Raises:
        LaunchError: the cluster does not answer, or not as Ray does.
    """
    request = urllib.request.Request(cluster.address.rstrip("/") + NODES)
    for name, value in headers_of(cluster).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
        return [_node(row) for row in rows if row["state"] == "ALIVE"]
    except urllib.error.HTTPError as error:
        raise LaunchError(f"{cluster.address} answers {error.code} {error.reason}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{cluster.address} does not tell its nodes: {error}") from error


def _node(row: dict[str, Any]) -> Node:
    has = row["resources_total"]
    return Node(row["node_ip"], has.get("CPU", 0.0), has.get("GPU", 0.0), int(has.get("memory", 0)))
