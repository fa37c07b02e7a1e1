"""Folders of an object store, copied to this machine once and shared by its processes.

The cache is bounded: what has not been used for longest goes first, but never what a living
process uses. Where it lies and how much it may hold is for who runs the machine to say:
`HELIOSTAT_CACHE` and `HELIOSTAT_CACHE_BYTES` (default: half of what its disk has free).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from heliostat.errors import StorageError
from heliostat.storage.files import on_full_disk
from heliostat.storage.objects import ObjectPath, StorePath

DOWNLOADS_AT_ONCE = 16
WHOLE = ".whole"  # beside a copy: all of it is here; its time is that of the last use
_Listing = tuple[tuple[ObjectPath, int, str], ...]


def local_copy(folder: StorePath) -> Path:
    """`folder` as a local folder: itself, or a copy of what the store holds now. A copy stays
    at least as long as this process lives.

    Raises:
        StorageError: the store does not answer, or the copy is larger than the cache may be.
    """
    if isinstance(folder, Path):
        return folder
    listing = tuple(folder.listing())
    lines = (f"{path}\x1f{size}\x1f{tag}" for path, size, tag in listing)
    key = hashlib.sha256("\x1e".join([str(folder), *lines]).encode()).hexdigest()[:32]
    return _copy(folder, listing, cache_folder() / key)


def cache_folder() -> Path:
    """Where copies lie."""
    given = os.environ.get("HELIOSTAT_CACHE")
    return Path(given or Path(tempfile.gettempdir()) / f"heliostat-cache-{os.getuid()}")


@cache
def _copy(folder: ObjectPath, listing: _Listing, copy: Path) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(copy.parent / "cache.lock"):
        _use(copy)
    with _locked(copy.with_suffix(".filling")), on_full_disk(copy):
        whole = copy.with_suffix(WHOLE)
        if not whole.exists():
            with _locked(copy.parent / "cache.lock"):
                _make_room(copy, sum(size for _, size, _ in listing))
            _fill(folder, listing, copy)
        whole.touch()
    return copy


def _fill(folder: ObjectPath, listing: _Listing, copy: Path) -> None:
    def fetch(entry: tuple[ObjectPath, int, str]) -> None:
        path, size, _ = entry
        file = copy / path.relative_to(folder)
        if file.exists() and file.stat().st_size == size:
            return  # of a copy that was cut off
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        path.download(part)
        part.rename(file)

    copy.mkdir(exist_ok=True)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        list(pool.map(fetch, listing))


def _make_room(copy: Path, num_bytes: int) -> None:
    """Remove the copies used longest ago until this one fits."""
    limit = _limit_bytes(copy.parent)
    if num_bytes > limit:
        raise StorageError(
            f"a copy of {num_bytes:,} bytes does not fit into {copy.parent}, which may hold "
            f"{limit:,}; point HELIOSTAT_CACHE to a larger disk, raise HELIOSTAT_CACHE_BYTES, "
            "or use `data.ingest: stream`"
        )
    others = [path for path in copy.parent.iterdir() if path.is_dir() and path != copy]
    sizes = {other: _size(other) for other in others}
    total = num_bytes + sum(sizes.values())
    for other in sorted(others, key=_last_use):
        if total <= limit:
            return
        if _remove_unused(other):
            total -= sizes[other]


def _limit_bytes(folder: Path) -> int:
    given = os.environ.get("HELIOSTAT_CACHE_BYTES")
    held = sum(_size(path) for path in folder.iterdir() if path.is_dir())
    return int(given) if given else (shutil.disk_usage(folder).free + held) // 2


def _last_use(copy: Path) -> float:
    whole = copy.with_suffix(WHOLE)
    return whole.stat().st_mtime if whole.exists() else 0.0


def _size(copy: Path) -> int:
    return sum(path.lstat().st_size for path in copy.rglob("*") if path.is_file())


_in_use: list[IO[bytes]] = []  # open as long as this process lives, each with a shared lock


def _use(copy: Path) -> None:
    handle = copy.with_suffix(".used").open("ab")
    fcntl.flock(handle, fcntl.LOCK_SH)
    _in_use.append(handle)


def _remove_unused(copy: Path) -> bool:
    with copy.with_suffix(".used").open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        copy.with_suffix(WHOLE).unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)
        for suffix in (".used", ".filling"):
            copy.with_suffix(suffix).unlink(missing_ok=True)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
