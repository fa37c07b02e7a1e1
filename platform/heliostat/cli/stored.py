"""The job that a run began with, from its folder."""

from __future__ import annotations

from heliostat.catalog.code import CODE_FOLDER
from heliostat.cli.options import open_storage, read_job
from heliostat.errors import Problem, UserError
from heliostat.spec.load import Job
from heliostat.storage.cache import local_copy
from heliostat.storage.runs import RunFolder


def stored_job(folder: RunFolder, settings: tuple[str, ...]) -> Job:
    """The job of a run, with its own code as the run has kept it.

    Raises:
        UserError: the run has kept no job file.
    """
    file = folder.path / "job.yaml"
    if not file.exists():
        what = "has kept no job file"
        raise UserError(Problem(folder.reference, what, "give the job file as well"))
    job = read_job((str(file),), settings)
    own: dict[str, object] = {"storage": str(folder.storage.root)}
    code = folder.path / CODE_FOLDER
    if job.spec.code is not None and code.exists():
        own["code.path"] = str(local_copy(code))
    return job.replace(own)


def run_to_resume(reference: str, storage: str | None) -> RunFolder:
    """The run called so; without a name, the latest of the storage.

    Raises:
        UserError: there is none.
    """
    place = open_storage(storage)
    if reference:
        return place.find(reference)
    runs = list(place.runs())
    if not runs:
        what = "there is no run here that could be resumed"
        raise UserError(Problem(str(place.root), what, "name its job file, or its `--storage`"))
    return runs[-1]
