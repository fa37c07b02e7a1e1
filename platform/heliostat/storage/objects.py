"""Paths in an object store, with the part of `pathlib.Path` that storage needs.

An object appears whole or not at all, and there is no rename: what is made of several objects
is whole once its last one, the manifest, is there. Credentials and endpoint come from the
environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), or from the machine's own role.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.errors import Problem, StorageError, UserError, first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
REQUEST_SECONDS = 60
PATIENCE_SECONDS = 60  # an outage of a minute is lived through
KEYS_AT_ONCE = 1000


@dataclass(frozen=True)
class ObjectStat:
    """Size and time of one object, called as `os.stat_result` calls them."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class ObjectPath:
    """`bucket` is `s3://name`; `key` has no slash at either end. A folder is a common prefix."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> ObjectPath:
        """The folder it lies in."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def relative_to(self, other: ObjectPath) -> Path:
        """Its place below `other`."""
        return Path(self.key).relative_to(other.key)

    def reach(self) -> None:
        """See that the bucket answers, and admits us.

        Raises:
            StorageError: after a few seconds, not after those that an outage is given.
        """
        with _told(self, patience_seconds=2) as (api, store):
            api.list_with_delimiter(store, f"{self.key}/" if self.key else None)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders come with their objects."""

    def exists(self) -> bool:
        """Whether it is an object, or a folder that holds one."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether it is an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether an object lies below it."""
        return next(self.objects(), None) is not None

    def stat(self) -> ObjectStat:
        """Size and time of the object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with _told(self) as (api, store):
            meta = api.head(store, self.key)
        return ObjectStat(meta["size"], meta["last_modified"].timestamp())

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with _told(self) as (api, store):
            return bytes(api.get(store, self.key).bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put an object, replacing what was there."""
        with _told(self) as (api, store):
            api.put(store, self.key, content)

    def write_text(self, content: str, encoding: str = "utf-8") -> None:
        """Put an object that holds text."""
        self.write_bytes(content.encode(encoding))

    def create(self, content: bytes) -> bool:
        """Put an object only if none is there; tell whether it was."""
        from obstore.exceptions import AlreadyExistsError

        with _told(self) as (api, store):
            try:
                api.put(store, self.key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def upload(self, file: Path) -> None:
        """Put the content of a local file."""
        with _told(self) as (api, store):
            api.put(store, self.key, file)

    def download(self, file: Path) -> None:
        """Write the object's content to a local file."""
        with _told(self) as (api, store), file.open("wb") as sink:
            for chunk in api.get(store, self.key).stream():
                sink.write(chunk)

    def copy_to(self, target: ObjectPath) -> None:
        """Copy the object within its bucket, by the store itself."""
        with _told(self) as (api, store):
            api.copy(store, self.key, target.key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        delete([self])

    def iterdir(self) -> Iterator[ObjectPath]:
        """What lies right in it."""
        with _told(self) as (api, store):
            found = api.list_with_delimiter(store, f"{self.key}/" if self.key else None)
        keys = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return iter(sorted(ObjectPath(self.bucket, key) for key in keys))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What matches the pattern, part by part."""
        found = [self]
        *outer, last = pattern.split("/")
        for part in outer:
            found = [path for folder in found for path in folder._matching(part)]
        matches = [path for folder in found for path in folder._matching(last)]
        exact = not _is_pattern(last)
        return iter(sorted(path for path in matches if not exact or path.exists()))

    def objects(self) -> Iterator[ObjectPath]:
        """Every object below it, in order."""
        return (path for path, _, _ in self.listing())

    def listing(self) -> Iterator[tuple[ObjectPath, int, str]]:
        """Every object below it with its size and its tag, which changes with the content."""
        with _told(self) as (api, store):
            for chunk in api.list(store, f"{self.key}/" if self.key else None):
                for meta in sorted(chunk, key=lambda meta: str(meta["path"])):
                    path = ObjectPath(self.bucket, meta["path"])
                    yield path, meta["size"], meta["e_tag"] or str(meta["last_modified"])

    def _matching(self, part: str) -> list[ObjectPath]:
        if not _is_pattern(part):
            return [self / part]
        return [path for path in self.iterdir() if fnmatchcase(path.name, part)]


StorePath = Path | ObjectPath


def as_path(location: str) -> StorePath:
    """The path that a string names: local, or in an object store by its URI.

    Raises:
        UserError: the store is of a kind we do not know, or the URI carries credentials.
    """
    scheme, mark, rest = location.partition("://")
    if not mark:
        return Path(location)
    if scheme == "file":
        return Path(rest)
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise UserError(
            Problem(
                f"{scheme}://...",
                "credentials do not belong in a job file",
                "give them in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        )
    if scheme not in SCHEMES or not bucket:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UserError(Problem(location, "is no storage we know", f"a folder, or one of {known}"))
    return ObjectPath(f"{scheme}://{bucket}", key.strip("/"))


def matching(folder: StorePath, pattern: str) -> list[StorePath]:
    """What a folder's `glob` finds, by name."""
    if isinstance(folder, ObjectPath):
        return list(folder.glob(pattern))
    return sorted(folder.glob(pattern))


def delete(paths: Iterable[ObjectPath]) -> None:
    """Delete objects; what is not there does not matter."""
    paths = list(paths)
    for start in range(0, len(paths), KEYS_AT_ONCE):
        some = paths[start : start + KEYS_AT_ONCE]
        with _told(some[0]) as (api, store):
            api.delete(store, [path.key for path in some])


def _is_pattern(part: str) -> bool:
    return any(mark in part for mark in "*?[")


@contextmanager
def _told(
    path: ObjectPath, patience_seconds: int = PATIENCE_SECONDS
) -> Iterator[tuple[Any, ObjectStore]]:
    """The client and the store; what goes wrong there is told in a sentence."""
    import obstore  # only who uses a store pays for its client
    from obstore.exceptions import BaseError

    try:
        yield obstore, _store(path.bucket, patience_seconds)
    except BaseError as error:
        raise StorageError(f"{path}: {_reason(error)}") from error


@lru_cache(maxsize=16)
def _store(bucket: str, patience_seconds: int) -> ObjectStore:
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(
        bucket,
        client_options={"allow_http": plain, "timeout": timedelta(seconds=REQUEST_SECONDS)},
        retry_config={
            "max_retries": patience_seconds,
            "retry_timeout": timedelta(seconds=patience_seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    )


def _reason(error: Exception) -> str:
    """One line: the store's own code where it gives one (`<Code>NoSuchBucket</Code>`)."""
    text = str(error)
    if "<Code>" in text:
        code = text.partition("<Code>")[2].partition("<")[0]
        message = text.partition("<Message>")[2].partition("<")[0]
        return f"the store refuses: {code} ({message})" if message else f"the store refuses: {code}"
    return first_line(error)
