"""Options that several verbs share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from heliostat.catalog.code import unpack_code
from heliostat.errors import Problem, UserError
from heliostat.spec.load import Job, load_job, load_site
from heliostat.spec.site import SiteSpec
from heliostat.storage.objects import ObjectPath, as_path
from heliostat.storage.runs import DEFAULT_STORAGE, Storage

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def job_options(function: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """JOB..., --set and --json."""
    function = click.option("--json", "as_json", is_flag=True, help="Print the value as JSON.")(
        function
    )
    function = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a key: train.epochs=3."
    )(function)
    return click.argument("files", nargs=-1, required=required, metavar="JOB...")(function)


def storage_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--storage, for verbs that find runs."""
    return click.option(
        "--storage", default=None, help="Where runs lie; default the site file's, else ./runs."
    )(function)


def read_job(files: tuple[str, ...], settings: tuple[str, ...]) -> Job:
    """The job, with the site file's storage and limits where it names none of its own."""
    job = load_job(*(_on_this_machine(file) for file in files), settings=settings)
    if isinstance(first := as_path(files[0]), ObjectPath):
        job = replace(job, folder=str(first.parent))
    site = read_site()
    settings_of_site: dict[str, object] = {}
    if job.spec.storage is None and site.storage is not None:
        settings_of_site["storage"] = site.storage
    if site.limits is not None:
        for key in site.limits.model_fields_set - job.spec.limits.model_fields_set:
            settings_of_site[f"limits.{key}"] = getattr(site.limits, key)
    if job.spec.code is not None and job.spec.code.path.endswith(".zip"):
        settings_of_site["code.path"] = str(_unpacked(job.spec.code.path))
    return job.replace(settings_of_site)


def _unpacked(archive: str) -> Path:
    """Own code that `submit` has sent to the storage, on this machine."""
    path = as_path(archive)
    if not path.exists():
        raise UserError(Problem("code.path", f"`{archive}` is not there"))
    folder = Path(tempfile.mkdtemp(prefix="heliostat-code-"))
    unpack_code(path.read_bytes(), path.name, folder)
    return folder


def _on_this_machine(file: str) -> Path:
    """A job file of an object store is copied first: `run s3://.../job.yaml --resume`."""
    path = as_path(file)
    if isinstance(path, Path):
        return path
    copy = Path(tempfile.mkdtemp(prefix="heliostat-job-")) / path.name
    path.download(copy)
    return copy


def site_path() -> Path:
    """`$HELIOSTAT_SITE`, else the user's configuration directory."""
    given = os.environ.get("HELIOSTAT_SITE")
    if given:
        return Path(given)
    return Path(click.get_app_dir("heliostat")) / "site.yaml"


def read_site() -> SiteSpec:
    """The site file; an empty one if there is none."""
    return load_site(site_path())


def open_storage(location: str | None) -> Storage:
    """The storage that a verb about runs looks into; nothing is made there."""
    return Storage.at(location or read_site().storage or DEFAULT_STORAGE)


def storage_words(location: str | None) -> list[str]:
    """The option by which a verb finds runs of this storage from here, where it needs one."""
    root, usual = open_storage(location).root, open_storage(None).root
    return [] if root == usual else ["--storage", str(root)]
