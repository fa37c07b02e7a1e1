"""Folders that appear whole: made beside their place or on this machine, then published."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from heliostat.storage.files import STAGE_PREFIX, on_full_disk, sync_folder
from heliostat.storage.objects import ObjectPath, StorePath, delete


def stage_folder(parent: StorePath) -> Path:
    """A new local folder, to be published in `parent` once it is finished."""
    if isinstance(parent, ObjectPath):
        return Path(tempfile.mkdtemp(prefix="heliostat-"))
    stage = parent / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    stage.mkdir(parents=True)
    return stage


@contextmanager
def staged(parent: StorePath) -> Iterator[Path]:
    """A stage for the body to fill and to publish in `parent`; it goes if the body fails, and with
    it the room that it took.

    Raises:
        StorageError: a disk is full.
    """
    local = parent if isinstance(parent, Path) else Path(tempfile.gettempdir())
    with on_full_disk(local):
        stage = stage_folder(parent)
        try:
            yield stage
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def lasting_stage(final: StorePath) -> StorePath:
    """Where `final` is made by several processes, one after the other if the first is killed: a
    folder beside it, or in an object store the folder itself, which is not whole until its
    last file is there.
    """
    if isinstance(final, ObjectPath):
        return final
    stage = final.parent / f"{STAGE_PREFIX}{final.name}"
    stage.mkdir(parents=True, exist_ok=True)
    return stage


@contextmanager
def new_file(path: StorePath) -> Iterator[Path]:
    """A local file to be written, which appears at `path` if all goes well."""
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch:
            yield Path(scratch) / path.name
            path.upload(Path(scratch) / path.name)
        return
    with on_full_disk(path):
        part = path.with_suffix(".part")
        try:
            yield part
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def publish_folder(stage: Path, final: StorePath, last: str) -> bool:
    """Put a finished stage into place; False (and the stage gone) if somebody was first.

    On a file system by a rename; in an object store `last`, the file that makes the folder
    whole, is put after all others, and only if it is not there.
    """
    if isinstance(final, ObjectPath):
        return _upload_folder(stage, final, last)
    with on_full_disk(final):
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


def copy_folder(source: StorePath, target: StorePath, last: str) -> None:
    """Replace `target` by a copy of `source`, a folder of the same storage."""
    remove_folder(target, last)
    if isinstance(source, ObjectPath) and isinstance(target, ObjectPath):
        paths = sorted(source.objects(), key=lambda path: path == source / last)
        for path in paths:
            path.copy_to(target / path.relative_to(source).as_posix())
        return
    assert isinstance(source, Path) and isinstance(target, Path)
    with staged(target.parent) as stage:
        shutil.copytree(source, stage, dirs_exist_ok=True)
        publish_folder(stage, target, last)


def remove_folder(folder: StorePath, last: str | None = None) -> None:
    """Delete a folder, if it is there; first the file that makes it whole."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    if last is not None:
        delete([folder / last])
    delete(folder.objects())


def remove_files(paths: Sequence[StorePath]) -> None:
    """Delete files; in an object store many at a time."""
    delete([path for path in paths if isinstance(path, ObjectPath)])
    for path in paths:
        if isinstance(path, Path):
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _upload_folder(stage: Path, final: ObjectPath, last: str) -> bool:
    try:
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            name = file.relative_to(stage).as_posix()
            if name != last:
                (final / name).upload(file)
        return (final / last).create((stage / last).read_bytes())
    finally:
        shutil.rmtree(stage, ignore_errors=True)
