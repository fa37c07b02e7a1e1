"""What `ingest: stream` asks of a job. No copy of the training rows is kept: each epoch reads them
from the source again, so that each row must tell by itself on which side it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from heliostat.errors import Problem
from heliostat.spec.data import DataSpec
from heliostat.spec.load import Job

DATA_CPUS = 1  # a training's own, reserved next to its workers'
SAMPLE_ROWS = 200_000  # training rows that transforms are fitted on
COPY = "with the schema"  # what a copy says of its source, beside its rows
METHODS = ("random", "hash", "column", "source")


def stream_problems(job: Job) -> Iterator[Problem]:
    """Why a job cannot stream."""
    data = job.spec.data
    if data.ingest != "stream":
        return
    if job.spec.model.family != "network":
        yield job.problem(
            "data.ingest",
            f"`stream` feeds networks; a model of kind `{job.spec.model.kind}` holds all rows at "
            "once",
            "write `prepared`",
        )
    if data.split.method not in METHODS:
        yield job.problem(
            "data.split.method",
            f"`{data.split.method}` needs all rows to place one, and `ingest: stream` keeps none",
            f"one of: {', '.join(METHODS)}; or `ingest: prepared`",
        )
    if data.num_folds is not None:
        yield job.problem(
            "data.split.folds", "read the data again and again", "write `ingest: prepared`"
        )
    if data.clean.duplicates == "drop":
        yield job.problem(
            "data.clean.duplicates", "are told by looking at all rows", "write `ingest: prepared`"
        )


def stream_identity(data: DataSpec, seed: int, drops: list[str]) -> list[Any]:
    """What decides which rows of a source are kept: the rest of a prepared copy's identity."""
    if data.ingest != "stream":
        return []
    split = data.split.model_dump(mode="json")
    return [split, data.target, data.weight, seed, drops, SAMPLE_ROWS, COPY]
