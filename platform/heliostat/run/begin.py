"""What must hold before a job begins, and what it begins from."""

from __future__ import annotations

import os
from pathlib import Path

import heliostat
from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import Problem, UserError
from heliostat.spec.load import Job
from heliostat.spec.model import NetworkModel
from heliostat.storage.objects import as_path
from heliostat.storage.runs import Storage, storage_of

RAY_PACKAGES = "working_dir_files"  # where Ray unpacks the folder that a job brings


def check_environment(job: Job) -> None:
    """Secrets must be in the environment, whoever sent the job must have our version, and what it
    writes must last.

    Raises:
        UserError: one is not there, the versions differ, or the storage is a folder that Ray
            made for this job alone.
    """
    sender = os.environ.get("HELIOSTAT_SENT_BY", heliostat.__version__)
    if sender != heliostat.__version__:
        what = f"heliostat {sender} sent this job to an image with {heliostat.__version__}"
        raise UserError(Problem("image", what, "use the same version on both sides"))
    missing = [name for name in job.spec.secrets if not os.environ.get(name)]
    if missing:
        what = f"{', '.join(missing)} not set in this environment"
        raise UserError(job.problem("secrets", what, "set it where the job runs"))
    storage = storage_of(job)
    if "://" not in storage and RAY_PACKAGES in Path(storage).absolute().parts:
        what = f"`{storage}` lies in the job's working directory, which Ray removes after the job"
        raise UserError(job.problem("storage", what, "name a URI, or a folder that lasts"))


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
        folder = storage.find_model(place)
    except UserError as error:
        first = error.problems[0]
        raise UserError(
            job.problem("model.init_from", f"`{place}` is no file, and {first.message}", first.hint)
        ) from None
    if not (folder.model / DESCRIPTION).exists():
        raise UserError(Problem("model.init_from", f"{folder.reference} has no finished model"))
    return job.replace({"model.init_from": str(folder.model)})
