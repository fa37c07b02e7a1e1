"""Temp-then-publish: a reader never sees half a file, a killed writer leaves nothing that
looks whole.

Everything here works on a file system with atomic rename and exclusive creation.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.errors import ArtifactError

FORMAT = 1
STAGE_PREFIX = ".stage-"


def write_bytes(path: Path, content: bytes) -> None:
    """Publish `content` at `path`, replacing what was there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    try:
        _write_through(stage, content, "wb")
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_bytes(path: Path, content: bytes) -> bool:
    """Publish `content` at `path` only if nothing is there; tell whether it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    try:
        _write_through(stage, content, "wb")
        os.link(stage, path)
    except FileExistsError:
        return False
    finally:
        stage.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def write_json(path: Path, value: Mapping[str, Any]) -> None:
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


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at `path`.

    Raises:
        ArtifactError: the file is missing, damaged, or of a format newer than this version.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: is damaged ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise ArtifactError(f"{path}: carries no `format`; it was not written by heliostat")
    if value["format"] > FORMAT:
        raise ArtifactError(
            f"{path}: has format {value['format']}, this version reads up to {FORMAT}; "
            "install a newer heliostat"
        )
    return value


def stage_folder(parent: Path) -> Path:
    """A new folder beside the place where it will be published."""
    stage = parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    stage.mkdir(parents=True)
    return stage


def publish_folder(stage: Path, final: Path) -> bool:
    """Rename a finished stage into place; False (and the stage gone) if somebody was first."""
    for file in stage.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(stage)
    try:
        stage.rename(final)
    except OSError:
        if not final.exists():
            raise
        shutil.rmtree(stage)
        return False
    sync_folder(final.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_through(path: Path, content: bytes, mode: str) -> None:
    with path.open(mode) as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
