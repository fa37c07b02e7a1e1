"""Small models, trained in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.parallel.world import SoloWorld
from heliostat.train.assignment import Assignment
from heliostat.train.control import NoControl
from heliostat.train.job import train_events
from tests.data.packing import plan_of, prepare_here

MODELS = {"xgboost": "train: {rounds: 12}", "linear": "", "mlp": "train: {epochs: 1}"}


def model_of(
    folder: Path, table: pa.Table | Path, data: dict[str, Any], monkeypatch, kind: str = "xgboost"
) -> Path:
    """The model folder of a job over `table`, all of whose rows are for training."""
    folder.mkdir(parents=True, exist_ok=True)
    source = table if isinstance(table, Path) else folder / "train.parquet"
    if isinstance(table, pa.Table):
        pq.write_table(table, source)
    split = {"method": "random", "validation": 0, "test": 0}
    data = {"source": str(source), "split": split} | data
    job = folder / "job.yaml"
    job.write_text(f"name: t\ndata: {json.dumps(data)}\nmodel: {{kind: {kind}}}\n{MODELS[kind]}\n")
    plan = plan_of(job)
    prepared = prepare_here(plan, folder / "prepared", monkeypatch)
    assignment = Assignment(
        job=plan.job.spec.model_dump(mode="json", by_alias=True), columns=plan.columns,
        prepared=str(prepared.folder), data_digest="d", code=None, code_digest="c",
        model_folder=str(folder / "model"),
    )  # fmt: skip
    list(train_events(assignment, SoloWorld(), NoControl()))
    return folder / "model"
