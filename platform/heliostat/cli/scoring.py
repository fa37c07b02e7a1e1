"""What `predict` and `evaluate` share: the model, where rows are scored, what is told of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.cli.waiting import cluster_at
from heliostat.errors import Problem, UserError
from heliostat.parallel.device import VARIABLE, scoring_device
from heliostat.storage.objects import StorePath, as_path
from heliostat.storage.runs import Storage

if TYPE_CHECKING:
    from heliostat.data.shares import Counts
    from heliostat.train.artifact import TrainedModel

LOCAL_BYTES = 2**30  # what one process scores in its threads: above, those of Python hold it up


def model_folder(storage: Storage, run: str) -> StorePath:
    """The model of a run, or a model folder given by its path."""
    if ("/" in run or Path(run).exists()) and (as_path(run) / "model.json").exists():
        return as_path(run)
    folder = storage.find_model(run)
    if not (folder.model / "model.json").exists():
        raise UserError(Problem(folder.reference, "has no finished model"))
    return folder.model


@contextmanager
def scoring_tasks(
    address: str | None, num_bytes: int, folder: StorePath | None = None
) -> Iterator[int]:
    """How many tasks may score at once, on the cluster at `address` (or RAY_ADDRESS), else on an
    embedded one; 0, and Ray is not even imported, where no cluster is named and the source is
    small, or a GPU scores. Every node must see `folder`, into which the tasks write.

    Raises:
        LaunchError: there is no cluster at the address, or it refuses us.
        UserError: a node does not see the folder, or a GPU is to score on a cluster.
    """
    has_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    on_gpu = scoring_device() == "cuda"
    if on_gpu and has_cluster:
        raise UserError(Problem(VARIABLE, "`cuda` scores in this process", "name no cluster"))
    if on_gpu or (not has_cluster and num_bytes < LOCAL_BYTES):
        yield 0
        return
    with cluster_at(address) as cluster:
        from heliostat.run.cluster import check_storage_is_shared

        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            check_storage_is_shared(folder, "--out")
        yield max(1, int(cluster.cpus))


def show_progress(done: int, total: int) -> None:
    """One line a finished unit, on stderr."""
    print(f"scored    {done:,} of {total:,} rows", file=sys.stderr)


def tell_shares(trained: TrainedModel, found: Counts) -> dict[str, Any]:
    """Tell on stderr how many values were missing or new to the model, and what is far above
    training; the same as a value.
    """
    from heliostat.data.shares import share_warnings, shares_json, shares_lines

    warnings = share_warnings(found, trained.shares)
    if not trained.types:
        warnings.append(
            "the model was trained by an earlier version and keeps no types of its inputs: whether "
            "the source's are the same is not checked; train it again to have them checked"
        )
    for line in shares_lines(found, trained.shares):
        print(f"values    {line}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return {"columns": shares_json(found, trained.shares), "warnings": warnings}
