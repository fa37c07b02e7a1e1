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
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from heliostat.errors import ArtifactError, HeliostatError, StorageError, first_line
from heliostat.storage.objects import ObjectPath, StorePath

FORMAT = 1
STAGE_PREFIX = ".stage-"
Value = TypeVar("Value")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
LITTLE_BYTES = 64 * 2**10
NO_ROOM_TEXT = "No space left on device"  # in the errors of libraries, which carry no number


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
    """Say where a disk has no room left, or fails in another way.

    Raises:
        StorageError: in place of the operating system's error, or a library's about a full disk.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno is None and _is_full(path, error):  # numpy's, of an array cut short
            raise StorageError(_why(path, errno.ENOSPC, NO_ROOM_TEXT)) from error
        raise StorageError(_why(path, error.errno, error.strerror or str(error))) from error
    except Exception as error:
        if isinstance(error, HeliostatError) or not _is_full(path, error):
            raise
        raise StorageError(_why(path, errno.ENOSPC, NO_ROOM_TEXT)) from error


def _is_full(path: Path, error: Exception) -> bool:
    """Whether a library's error without a number is about a full disk."""
    if NO_ROOM_TEXT in str(error):
        return True
    room = os.statvfs(_nearest_folder(path))
    return isinstance(error, OSError) and room.f_bavail * room.f_frsize < LITTLE_BYTES


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())


def _why(path: Path, number: int | None, reason: str) -> str:
    sentence = f"{path}: cannot be written: {reason}"
    if number not in NO_ROOM:
        return sentence
    folder = _nearest_folder(path)
    room = os.statvfs(folder)
    no_names = ", and no file more may be made" if room.f_files and not room.f_favail else ""
    return (
        f"{sentence} ({room.f_bavail * room.f_frsize:,} bytes free in {folder}{no_names}); make "
        "room, then repeat the command: a run goes on with `--resume`"
    )


def take_room(path: Path) -> None:
    """Make the disk hold all of a file that will be written through a mapping: where there is no
    room for a page, the kernel would kill the process.
    """
    with path.open("r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)


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
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is damaged ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise ArtifactError(f"{path}: carries no `format`; it was not written by heliostat")
    if value["format"] > FORMAT:
        raise ArtifactError(
            f"{path}: has format {value['format']}, this version reads up to {FORMAT}; "
            "install a newer heliostat"
        )
    return value


def read_as(path: StorePath, kind: type[Value]) -> Value:
    """The JSON object at `path` as a `kind` (a dataclass or a TypedDict). Keys of newer versions
    are left out.

    Raises:
        ArtifactError: as `read_json`, or the object is of another kind.
    """
    value = read_json(path)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        what = f"is not what heliostat writes there: {_first(error)}"
        raise ArtifactError(f"{path}: {what}") from None


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    name = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    return f"`{name}`: {message[:1].lower()}{message[1:]}"


@contextmanager
def understood(path: StorePath) -> Iterator[None]:
    """For the body that takes apart what was read at `path`, and meets what it did not expect.

    Raises:
        ArtifactError: in place of Python's own error.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = first_line(error) if not isinstance(error, KeyError) else f"no {error}"
        raise ArtifactError(f"{path}: is not what heliostat writes there: {what}") from error


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
