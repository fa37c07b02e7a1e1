"""Where files lie: on this machine, or in a store that pyarrow reaches by its URI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs

from heliostat.errors import DataError, Problem

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Place:
    """A path in a filesystem. `prefix` and `suffix` around a path make a location again."""

    filesystem: fs.FileSystem
    path: str
    prefix: str = ""
    suffix: str = ""

    def location(self, path: str) -> str:
        """What names another path of the same filesystem: a URI, or the local path itself."""
        return f"{self.prefix}{path}{self.suffix}"


def place_of(location: str) -> Place:
    """Where a local path or a URI points.

    Raises:
        DataError: the URI names a store we do not know, or carries credentials.
    """
    if "://" not in location:
        path = os.path.abspath(os.path.expanduser(location))
        return Place(_local(), path)
    scheme, _, rest = location.partition("://")
    if "@" in rest.partition("/")[0]:
        raise DataError(
            Problem(
                f"{scheme}://...",
                "credentials do not belong in a job file",
                "give them in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        )
    path, mark, query = rest.partition("?")
    if scheme == "file":
        return Place(_local(), path)
    return Place(
        _store(scheme, path.partition("/")[0], query),
        path.rstrip("/"),
        f"{scheme}://",
        mark + query,
    )


def open_file(location: str) -> pa.NativeFile:
    """Open a file for reading at random.

    Raises:
        OSError: as the filesystem raises it.
    """
    place = place_of(location)
    return place.filesystem.open_input_file(place.path)


def suffix_of(location: str) -> str:
    """The lower-case suffix of a file's name, with the dot."""
    path = location.partition("?")[0] if "://" in location else location
    name = path.rpartition("/")[2].lower()
    return name[name.rindex(".") :] if "." in name else ""


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem(use_mmap=False)


@lru_cache(maxsize=16)
def _store(scheme: str, bucket: str, query: str) -> fs.FileSystem:
    if scheme == "s3":
        options = {key: values[-1] for key, values in parse_qs(query).items()}
        endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL")
        region = options.get("region") or os.environ.get("AWS_REGION")
        if endpoint:  # else pyarrow asks AWS for the bucket's region
            return fs.S3FileSystem(
                endpoint_override=urlsplit(endpoint).netloc or endpoint,
                scheme=urlsplit(endpoint).scheme or options.get("scheme", "https"),
                region=region or "us-east-1",
                connect_timeout=TIMEOUT_SECONDS,
                request_timeout=TIMEOUT_SECONDS,
            )
    try:
        filesystem, _ = fs.FileSystem.from_uri(f"{scheme}://{bucket}" + (query and f"?{query}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(Problem(f"{scheme}://{bucket}", f"cannot be reached: {error}")) from error
    return filesystem
