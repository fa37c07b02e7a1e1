"""What a job begins from: `model.init_from` as the place of weights."""

from __future__ import annotations

from pathlib import Path

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import Problem, UserError
from heliostat.spec.load import Job
from heliostat.spec.model import NetworkModel
from heliostat.storage.objects import as_path
from heliostat.storage.runs import Storage


def with_beginning(job: Job, storage: Storage) -> Job:
    """The job with the run that it begins from named by its model's folder, which never changes.

    Raises:
        UserError: there is no such run, file or folder, or the run has no finished model.
    """
    model = job.spec.model
    if not isinstance(model, NetworkModel) or model.init_from is None:
        return job
    place = model.init_from
    if "://" in place or Path(place).is_absolute():
        if not as_path(place).exists():
            raise UserError(job.problem("model.init_from", f"`{place}`: no such file or folder"))
        return job
    try:
        folder = storage.find(place)
    except UserError as error:
        first = error.problems[0]
        raise UserError(
            job.problem("model.init_from", f"`{place}` is no file, and {first.message}", first.hint)
        ) from None
    if not (folder.model / DESCRIPTION).exists():
        raise UserError(Problem("model.init_from", f"{folder.reference} has no finished model"))
    return job.replace({"model.init_from": str(folder.model)})
