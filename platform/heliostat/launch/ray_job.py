"""Ray Jobs: `heliostat run` on a running cluster, through its dashboard."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import heliostat
from heliostat.catalog.code import CODE_FOLDER, PackedCode, copy_code
from heliostat.errors import LaunchError, Problem, UserError, first_line
from heliostat.launch.own_code import code_bytes, packed, storage_problems, with_code_at
from heliostat.launch.token import headers_of
from heliostat.spec.identity import digest_of
from heliostat.spec.job import CodeSpec
from heliostat.spec.load import Job
from heliostat.spec.site import AddressCluster
from heliostat.storage.lines import split_lines
from heliostat.storage.runs import ID_PATTERN, new_run_id

JOB_FILE = "job.json"
MAX_CODE_BYTES = 99 * 2**20  # Ray takes packages up to 100 MiB; the job file is in it too
STATES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED")  # Ray's, and ours alike
POLL_SECONDS = 0.5
AGENT_SECONDS = 60.0
STOP_SECONDS = 10.0
RECONNECT_SECONDS = 60.0
ANSWER_SECONDS = 60.0  # of one request


@dataclass(frozen=True)
class Request:
    """What will be sent: a pure value, the same in `render` and in `submit`. The job's own code is
    a folder that goes with the job file; what is too large for that is `packed`, for the storage.
    """

    address: str
    submission_id: str
    entrypoint: str
    files: Mapping[str, Any]
    code: CodeSpec | None
    packed: PackedCode | None
    environment: Mapping[str, str]
    metadata: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As `render` shows it; values of secrets are never in it."""
        return {
            "address": self.address,
            "submission_id": self.submission_id,
            "entrypoint": self.entrypoint,
            "runtime_env": {"working_dir": dict(self.files), "env_vars": dict(self.environment)},
            "code": self.code.path if self.code is not None else None,
            "metadata": dict(self.metadata),
        }


def render(job: Job, cluster: AddressCluster, run_id: str | None, verb: str = "run") -> Request:
    """The request to `run` or to `prepare` a job: the resolved job file and the code beside it,
    or in the storage if Ray would not take it; nothing else.

    The entrypoint is a fixed list of words, so that no value of a job reaches a shell.

    Raises:
        UserError: the id is not fit for a name, or the storage not for a cluster.
    """
    if run_id is None:
        run_id = new_run_id() if verb == "run" else f"{verb}-{new_run_id()}"
    if not ID_PATTERN.fullmatch(run_id):
        raise UserError(
            Problem("--id", f"`{run_id}` must be up to 63 letters, digits, '.', '_' or '-'")
        )
    if problems := list(storage_problems(job, "the nodes")):
        raise UserError(problems)
    spec = job.spec
    archive = packed(job) if code_bytes(job) > MAX_CODE_BYTES else None
    place = f"{spec.storage}/{archive.place}" if archive else CODE_FOLDER
    value = with_code_at(job, place) if spec.code else dict(job.value)
    words = ["python", "-m", "heliostat", verb, JOB_FILE]
    words += ["--id", run_id] if verb == "run" else []
    environment = {
        "HELIOSTAT_SENT_BY": heliostat.__version__,
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
    price = cluster.price_per_hour * spec.scale.num_workers * spec.scale.resources.cpu
    if price:
        environment["HELIOSTAT_PRICE_PER_HOUR"] = f"{price:g}"
    return Request(
        address=cluster.address,
        submission_id=submission_id(spec.name, run_id),
        entrypoint=shlex.join(words),
        files={JOB_FILE: value},
        code=None if archive else spec.code,
        packed=archive,
        environment=environment,
        metadata=dict(spec.labels)
        | {
            "heliostat.name": spec.name,
            "heliostat.run": run_id,
            "heliostat.job": digest_of(value),
        },
    )


def submission_id(name: str, run_id: str) -> str:
    """The id at Ray Jobs: the same run is the same job, so that it is never sent twice."""
    return f"{name}-{run_id}"


def submit(
    request: Request, cluster: AddressCluster, record: Callable[[str], None]
) -> tuple[str, bool]:
    """Send a request; its id there, and False if the cluster already has this very run. One that
    has ended without success is sent again, under a further id, and goes on where it was. `record`
    is called with the id before it is sent.

    Raises:
        UserError: the run is there with another job file.
        LaunchError: the cluster cannot be reached or refuses.
    """
    client = connect(cluster)
    submission, attempt = request.submission_id, 1
    while (info := _info(client, submission)) is not None:
        if not info.status.is_terminal() or str(info.status.value) == "SUCCEEDED":
            _check_same_job(info, request)
            return submission, False
        attempt += 1
        submission = f"{request.submission_id}-again-{attempt}"
    record(submission)
    with _working_dir(request) as folder, _plain_errors(cluster):
        _send_when_up(
            client,
            entrypoint=request.entrypoint,
            submission_id=submission,
            runtime_env={"working_dir": folder, "env_vars": dict(request.environment)},
            metadata=dict(request.metadata),
        )
    return submission, True


def _check_same_job(info: Any, request: Request) -> None:
    """The same id is the same run: it does not get another job on the way."""
    key = "heliostat.job"
    if (info.metadata or {}).get(key, request.metadata[key]) != request.metadata[key]:
        what = f"{request.submission_id} is there already, with another job file"
        raise UserError(Problem("--id", what, "take another id, or stop that run first"))


def _send_when_up(client: Any, **job: Any) -> None:
    """Send a job. The agent that starts its driver comes up some seconds after the dashboard."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def status(cluster: AddressCluster, submission: str) -> tuple[str, str]:
    """(state, message) of a job; UNKNOWN if the cluster does not know it."""
    info = _info(connect(cluster), submission)
    if info is None:
        return "UNKNOWN", f"the cluster at {cluster.address} knows no such job"
    name = str(info.status.value)
    return name if name in STATES else "UNKNOWN", info.message or ""


def log_lines(cluster: AddressCluster, submission: str, follow: bool) -> Iterator[str]:
    """The job's output, each line once; with `follow`, until it ends, and through times in which
    its cluster does not answer.

    Raises:
        LaunchError: the cluster cannot be reached, for a minute if it is followed.
    """
    seen, patience = 0, 0.0
    while True:
        ended, text = _output(cluster, submission, patience)
        patience = RECONNECT_SECONDS if follow else 0.0
        end = len(text) if ended else text.rfind("\n") + 1
        yield from split_lines(text[seen:end])
        seen = max(seen, end)
        if ended or not follow:
            return
        time.sleep(POLL_SECONDS)


def _output(cluster: AddressCluster, submission: str, patience_seconds: float) -> tuple[bool, str]:
    """Whether a job has ended, and all that it has said."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            client = connect(cluster)
            info = _info(client, submission)
            with _plain_errors(cluster):
                text = client.get_job_logs(submission)
            return info is None or info.status.is_terminal(), text
        except _NoAnswerError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS)


class _NoAnswerError(LaunchError):
    """It may answer later."""


def stop(cluster: AddressCluster, submission: str) -> bool:
    """Ask a job to stop: Ray sends SIGTERM, and the run commits a checkpoint first. Whether it has
    ended soon: Ray says yes to the stop of a pending job, and does nothing.
    """
    client = connect(cluster)
    with _plain_errors(cluster):
        client.stop_job(submission)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        info = _info(client, submission)
        if info is None or info.status.is_terminal():
            return True
        time.sleep(POLL_SECONDS)
    return False


def connect(cluster: AddressCluster) -> Any:
    """A client with the cluster's token in its header.

    Raises:
        LaunchError: the cluster cannot be reached, or refuses the token.
    """
    from ray.job_submission import JobSubmissionClient  # `status` often needs no cluster

    for steps in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(steps).setLevel(logging.WARNING)  # they tell how a folder is packed

    class Bounded(JobSubmissionClient):  # type: ignore[misc]
        """Ray's own waits for ever."""

        def _do_request(self, *words: Any, **settings: Any) -> Any:
            return super()._do_request(*words, timeout=ANSWER_SECONDS, **settings)

    with _plain_errors(cluster):
        return Bounded(cluster.address, headers=headers_of(cluster) or None)


def _info(client: Any, submission: str) -> Any:
    try:
        return client.get_job_info(submission)
    except RuntimeError as error:
        if "404" in str(error):
            return None
        raise LaunchError(first_line(error)) from error
    except OSError as error:
        raise _NoAnswerError(f"the cluster does not answer any more: {error}") from error


@contextmanager
def _plain_errors(cluster: AddressCluster) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except OSError as error:  # of `requests`, too
        raise _NoAnswerError(f"no Ray cluster answers at {cluster.address}") from error
    except (RuntimeError, RayError) as error:
        first = first_line(error)
        if "uthentication" in first or "401" in first or "403" in first:
            first = "it refuses our token; set `token_env` or `token_file` in the site file"
        raise LaunchError(f"the cluster at {cluster.address}: {first}") from error


@contextmanager
def _working_dir(request: Request) -> Iterator[str]:
    """A folder with the job file and the code."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-submit-"))
    try:
        for name, value in request.files.items():
            (folder / name).write_text(json.dumps(value, indent=1))
        if request.code is not None:
            copy_code(Path(request.code.path), folder / CODE_FOLDER, request.code.patterns)
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
