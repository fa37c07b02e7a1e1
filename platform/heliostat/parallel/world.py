"""The ranks that train together, and the one exact sum they need besides gradients."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from heliostat.parallel.device import Device

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Degrees:
    """How far a model is cut: weights over `shard` ranks, matrices over `tensor` ranks, layers over
    `pipeline` ranks.
    """

    shard: int = 1
    tensor: int = 1
    pipeline: int = 1

    @property
    def peers(self) -> int:
        """How many ranks see the same rows."""
        return self.tensor * self.pipeline

    @property
    def cuts(self) -> bool:
        """Whether the model is cut at all."""
        return self.shard * self.peers > 1


class World(Protocol):
    """A rank among the `size` that see different rows. All ranks call `sum` in the same order.
    One process of all `leads`: it writes.
    """

    rank: int
    size: int
    leads: bool

    def sum(self, values: Array) -> Array:
        """The elementwise sum of every rank's `values` (float64), the same bits everywhere."""

    def close(self) -> None:
        """Leave the world."""


class SoloWorld:
    """One rank alone."""

    rank = 0
    size = 1
    leads = True

    def sum(self, values: Array) -> Array:
        """`values` themselves."""
        return values

    def close(self) -> None:
        """Nothing to leave."""


class TorchWorld:
    """Processes joined by torch.distributed: gloo, or nccl where each has a GPU. `peers`
    consecutive processes see the same rows: one rank.
    """

    def __init__(
        self, process: int, count: int, address: str, timeout_seconds: float, peers: int = 1,
        device: Device = "cpu",
    ) -> None:  # fmt: skip
        import torch.distributed as dist  # a second of import; only networks need it

        host, _, port = address.rpartition(":")
        timeout = timedelta(seconds=timeout_seconds)
        _keep_to(host)
        # Left to itself, the store would listen on every address of the machine.
        own = _listening(host, int(port)) if process == 0 else None
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, int(port), count, process == 0, timeout, master_listen_fd=own,
            wait_for_workers=False,
        )  # fmt: skip

        self.rank, self.size, self.leads = process // peers, count // peers, process == 0
        self._peers = peers
        self._device = device
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=store,
            rank=process,
            world_size=count,
            timeout=timeout,
        )

    def sum(self, values: Array) -> Array:
        """See `World`."""
        import torch
        import torch.distributed as dist

        tensor = torch.from_numpy(np.array(values, np.float64)).to(self._device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy() / self._peers  # each of which has added the same

    def close(self) -> None:
        """See `World`."""
        import torch.distributed as dist

        dist.destroy_process_group()


class BoostedWorld:
    """Ranks joined by XGBoost's own communicator."""

    def __init__(self, rank: int, size: int, address: str, timeout_seconds: float) -> None:
        from xgboost import collective
        from xgboost.tracker import RabitTracker

        self.rank, self.size, self.leads = rank, size, rank == 0
        host, _, port = address.rpartition(":")
        self._tracker = None
        if rank == 0:
            self._tracker = RabitTracker(
                n_workers=size, host_ip=host, port=int(port), sortby="task",
                timeout=int(timeout_seconds),
            )  # fmt: skip
            self._tracker.start()
        collective.init(
            dmlc_tracker_uri=host,
            dmlc_tracker_port=int(port),
            dmlc_task_id=f"{rank:06d}",
            dmlc_timeout=int(timeout_seconds),
            dmlc_retry=20,
        )
        if collective.get_rank() != rank:
            raise RuntimeError(f"rank {rank} was given rank {collective.get_rank()}")

    def sum(self, values: Array) -> Array:
        """See `World`."""
        from xgboost import collective

        flat = np.array(values, np.float64).reshape(-1)  # it knows no shapes
        return collective.allreduce(flat, collective.Op.SUM).reshape(np.shape(values))

    def close(self) -> None:
        """See `World`."""
        from xgboost import collective

        collective.finalize()
        if self._tracker is not None:
            self._tracker.wait_for()


def gather(world: World, part: Array, start: int, total: int) -> Array:
    """All ranks' parts in one array of `total` rows: each rank adds its own to zeros, which is
    exact, so that metrics are computed from the same bits on any number of ranks.
    """
    if world.size == 1:
        return part
    whole = np.zeros((total, *part.shape[1:]), np.float64)
    whole[start : start + len(part)] = part
    return world.sum(whole)


def broadcast(world: World, content: bytes) -> bytes:
    """Rank 0's bytes on every rank; the others give none."""
    length = int(world.sum(np.array([len(content)]))[0])
    padded = np.frombuffer(content.ljust(length, b"\0"), np.uint8)
    return world.sum(padded.astype(np.float64)).astype(np.uint8).tobytes()


def _listening(host: str, port: int) -> int:
    """A socket that listens on one address, for torch to own."""
    server = socket.create_server((host, port), backlog=1024)
    return server.detach()


def _keep_to(host: str) -> None:
    """Ranks that meet at a loopback address listen nowhere else."""
    if ipaddress.ip_address(host).is_loopback:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
