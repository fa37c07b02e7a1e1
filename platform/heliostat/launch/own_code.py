"""A job's own code on its way through the storage, for clusters that cannot take a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heliostat.catalog.code import PackedCode, code_files, num_bytes, pack_code
from heliostat.errors import Problem
from heliostat.spec.load import Job
from heliostat.storage.files import create_bytes
from heliostat.storage.objects import as_path
from heliostat.storage.runs import DEFAULT_STORAGE


def code_bytes(job: Job) -> int:
    """What a job's own code takes."""
    code = job.spec.code
    return num_bytes(code_files(Path(code.path), code.patterns)) if code is not None else 0


def packed(job: Job) -> PackedCode | None:
    """A job's own code as one archive; None if it has none."""
    code = job.spec.code
    return pack_code(Path(code.path), code.patterns) if code is not None else None


def with_code_at(job: Job, path: str) -> dict[str, Any]:
    """The job file with its own code at another place."""
    return dict(job.value) | {"code": {**job.value["code"], "path": path}}


def storage_problems(job: Job, who: str) -> Iterator[Problem]:
    """What hinders `who` from reaching the job's storage."""
    storage = job.spec.storage or DEFAULT_STORAGE
    if not (storage.startswith("/") or "://" in storage):
        what = f"`{storage}` is a folder of this machine, which {who} do not see"
        yield job.problem("storage", what, f"name a URI, or a folder that all of {who} mount")


def keep(code: PackedCode, storage: str) -> None:
    """Put an archive into a storage, once."""
    place = as_path(f"{storage}/{code.place}")
    place.parent.mkdir(parents=True, exist_ok=True)
    create_bytes(place, code.content)
