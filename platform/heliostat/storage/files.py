"""Temp-then-publish: a reader never sees half a file, a killed writer leaves nothing that
looks whole.

On a file system by rename and exclusive creation; an object store puts an object whole, and
conditionally where it must be the first.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heliostat.errors import ArtifactError, StorageError
from heliostat.storage.objects import ObjectPath, StorePath

FORMAT = 1
STAGE_PREFIX = ".stage-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def write_bytes(path: StorePath, content: bytes) -> None:
    """Publish `content` at `path`, replacing what was there in one step.

    Raises:
        StorageError: the disk is full, or the store does not answer.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    with on_full_disk(path), _staged(path, content) as stage:
        os.replace(stage, path)


def create_bytes(path: StorePath, content: bytes) -> bool:
    """Publish `content` at `path` only if nothing is there; tell whether it was.

    Raises:
        StorageError: the disk is full, or the store does not answer.
    """
    if isinstance(path, ObjectPath):
        return path.create(content)
    with on_full_disk(path):
        try:
            with _staged(path, content) as stage:
                os.link(stage, path)
        except FileExistsError:
            return False
    return True


def touch(path: StorePath) -> None:
    """Make an existing file as young as if it had just been written."""
    if isinstance(path, ObjectPath):
        path.write_bytes(path.read_bytes())
    else:
        os.utime(path)


@contextmanager
def on_full_disk(path: Path) -> Iterator[None]:
    """Say where a disk has no room left, or fails.

    Raises:
        StorageError: in place of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def write_json(path: StorePath, value: Mapping[str, Any]) -> None:
    """Publish `value` as JSON, stamped with the format. Non-finite numbers become null."""
    write_bytes(path, encode_json({"format": FORMAT} | dict(value)))


def encode_json(value: Any) -> bytes:
    """Strict JSON: a NaN or an infinity is written as null."""
    return (
        json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def finite(value: Any) -> Any:
    """`value` with every non-finite number replaced by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def read_json(path: StorePath) -> dict[str, Any]:
    """The JSON object at `path`.

    Raises:
        ArtifactError: the file is missing, damaged, or of a format newer than this version.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is damaged ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise ArtifactError(f"{path}: carries no `format`; it was not written by heliostat")
    if value["format"] > FORMAT:
        raise ArtifactError(
            f"{path}: has format {value['format']}, this version reads up to {FORMAT}; "
            "install a newer heliostat"
        )
    return value


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _staged(path: Path, content: bytes) -> Iterator[Path]:
    """`content` in a file beside `path`, flushed to the disk; then whatever became of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    try:
        with stage.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        yield stage
    finally:
        stage.unlink(missing_ok=True)
    sync_folder(path.parent)
