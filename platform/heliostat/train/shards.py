"""Checkpoints of a model that is cut: each rank writes its own parts, none gathers the whole.

torch.distributed.checkpoint decides who writes what and reads it back for any other cut; its
safetensors storage keeps it free of pickle. It is loaded where it is used: most models are whole,
and it is half a second of a worker's start. Parts are written beside training, over a process
group of their own, into the storage; then the leader commits them as one checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heliostat.parallel.apply import is_cut
from heliostat.parallel.world import World
from heliostat.train.checkpoint import Checkpoint, Checkpoints, CommittedCheckpoints, Files
from heliostat.train.events import Committed
from heliostat.train.optim import load_optimizer_tensors, optimizer_state
from heliostat.train.optimizer import Optimizer

LAYOUT, SHARDS = "layout", "shards"
WRITING_SECONDS = 1800.0
MODEL, OPTIMIZER = "model/", "optimizer/"


class ShardWriter:
    """Where the ranks of a model that is cut write their parts."""

    def __init__(self, checkpoints: CommittedCheckpoints, leads: bool) -> None:
        self.checkpoints, self.leads = checkpoints, leads
        self.group = dist.new_group(
            backend="gloo", timeout=timedelta(seconds=WRITING_SECONDS)
        )  # a thread's own: training goes on meanwhile

    @classmethod
    def of(cls, model: nn.Module, world: World, checkpoints: Checkpoints) -> ShardWriter | None:
        """The writer, if the model is cut and its checkpoints are kept; else the leader writes the
        whole.
        """
        if not is_cut(model) or not isinstance(checkpoints, CommittedCheckpoints):
            return None
        return cls(checkpoints, world.leads)

    def saving(
        self,
        manifest: Mapping[str, Any],
        best: bool,
        model: nn.Module,
        optimizer: Optimizer,
    ) -> Callable[[], Committed | None]:
        """Copy this rank's parts; what is to be done with them beside training, on every rank."""
        state = {name: tensor.clone() for name, tensor in _state(model, optimizer).items()}
        manifest = dict(manifest) | {LAYOUT: SHARDS}

        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save as save_parts

        def write(folder: Path) -> None:
            writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
            save_parts(state, storage_writer=writer, process_group=self.group)

        def save() -> Committed | None:
            own = self.checkpoints.put_part(manifest, write)
            parts: list[Files] = [{} for _ in range(dist.get_world_size(self.group))]
            dist.all_gather_object(parts, own, self.group)
            if self.leads:
                files = {name: facts for part in parts for name, facts in part.items()}
                self.checkpoints.commit(manifest, files, best)
            # None begins the next while the leader sweeps what lies about.
            dist.barrier(self.group)
            if not self.leads:
                return None
            return Committed(int(manifest["step"]), best)

        return save


def is_sharded(checkpoint: Checkpoint) -> bool:
    """Whether ranks wrote it in parts."""
    return checkpoint.manifest.get(LAYOUT) == SHARDS


def restore_shards(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put weights and optimizer state back, cut as they are now, whatever the cut was."""
    load_sharded_weights(model, checkpoint.folder)
    stored = _stored_names(checkpoint.folder)
    wanted: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        prefix = f"{OPTIMIZER}{name}."
        for key in (k for k in stored if k.startswith(prefix)):
            is_step = key == f"{prefix}step"
            wanted[key] = torch.zeros(()) if is_step else torch.zeros_like(parameter.detach())
    _load(wanted, checkpoint.folder)
    tensors = {key.removeprefix(OPTIMIZER): tensor for key, tensor in wanted.items()}
    load_optimizer_tensors(optimizer, model, tensors)


def load_sharded_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights alone into a model that may be cut in any way, or not at all."""
    _load({f"{MODEL}{name}": tensor for name, tensor in model.state_dict().items()}, folder)


def _load(into: dict[str, Tensor], folder: Path) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if into:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # each rank reads by itself: we know
            load(into, storage_reader=HuggingFaceStorageReader(path=str(folder)), no_dist=True)


def _stored_names(folder: Path) -> set[str]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    return set(HuggingFaceStorageReader(path=str(folder)).read_metadata().state_dict_metadata)


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    weights = {f"{MODEL}{name}": t.detach() for name, t in model.state_dict().items()}
    moments = optimizer_state(optimizer, model).items()
    return weights | {f"{OPTIMIZER}{name}": tensor for name, tensor in moments}
