"""Checkpoints: committed so that no single fault loses one, verified before they are used.

Commit: stage, write, fsync; manifest with size and SHA-256 of every file; fsync; rename. In an
object store, which has no rename, the manifest is put last. A fencing token, checked before,
keeps a superseded process out.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from heliostat.errors import ArtifactError
from heliostat.storage.cache import local_copy
from heliostat.storage.files import STAGE_PREFIX, on_full_disk, read_json, understood, write_json
from heliostat.storage.folders import (
    publish_folder,
    remove_files,
    remove_folder,
    sha256_of,
    staged,
)
from heliostat.storage.lease import check_token
from heliostat.storage.objects import ObjectPath, StorePath

MANIFEST = "manifest.json"
STEP_PATTERN = re.compile(r"step-\d+\Z")
Files = dict[str, dict[str, Any]]  # of each file its `bytes` and `sha256`


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its files lie in `folder`, its position and state in `manifest`."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The step it was taken after."""
        return int(self.manifest["step"])


class Checkpoints(Protocol):
    """Where a run keeps its checkpoints. Rank 0 saves; every rank may load."""

    def save(
        self, manifest: Mapping[str, Any], write: Callable[[Path], None], best: bool, due: bool
    ) -> None:
        """Keep the files that `write(folder)` makes; `manifest` carries at least `step`. It is the
        `best` so far, or `due` to outlive the process, or both.
        """

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and a sentence for each newer one passed over."""

    def best(self) -> Checkpoint | None:
        """The one last saved as best."""


class CommittedCheckpoints:
    """Checkpoints in a run folder, under the lease's fencing token."""

    def __init__(
        self,
        folder: StorePath,
        lease: StorePath,
        token: int,
        keep: int,
        digests: Mapping[str, str],
    ) -> None:
        self.folder, self.lease, self.token, self.keep = folder, lease, token, keep
        self.digests = digests

    def save(
        self, manifest: Mapping[str, Any], write: Callable[[Path], None], best: bool, due: bool
    ) -> None:
        """See `Checkpoints`; then delete what is no longer kept."""
        check_token(self.lease, self.token)
        with staged(self.folder) as stage:
            write(stage)
            write_json(stage / MANIFEST, self._whole(manifest, facts_of(stage), best))
            check_token(self.lease, self.token)
            final = self._final(manifest)
            if final.exists():  # the same step, taken again after a resume from before it
                remove_folder(final, MANIFEST)
            publish_folder(stage, final, MANIFEST)
        self._collect()

    def put_part(self, manifest: Mapping[str, Any], write: Callable[[Path], None]) -> Files:
        """Put the files that `write(folder)` makes, one rank's part of a checkpoint, where `commit`
        will find them: on a file system every rank must see the folder.
        """
        final, place = self._final(manifest), self._place_of_parts(manifest)
        local = place if isinstance(place, Path) else Path(tempfile.gettempdir())
        with on_full_disk(local):
            return self._put_part(final, place, write)

    def _put_part(self, final: StorePath, place: StorePath, write: Callable[[Path], None]) -> Files:
        if isinstance(place, Path):
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place if isinstance(place, Path) else None) as scratch:
            write(Path(scratch))
            files = facts_of(Path(scratch))
            for name in files:
                if isinstance(place, Path):
                    (Path(scratch) / name).rename(place / name)
                elif isinstance(final, ObjectPath):
                    (final / name).upload(Path(scratch) / name)
        return files

    def commit(self, manifest: Mapping[str, Any], files: Files, best: bool) -> None:
        """Make a checkpoint of the parts that all ranks have put."""
        check_token(self.lease, self.token)
        final, place = self._final(manifest), self._place_of_parts(manifest)
        found: list[StorePath] = [*place.iterdir()]
        remove_files([path for path in found if path.name not in files])  # a killed writer's
        value = self._whole(manifest, files, best)
        if isinstance(place, Path):
            write_json(place / MANIFEST, value)
            remove_folder(final, MANIFEST)
            publish_folder(place, final, MANIFEST)
        else:
            write_json(final / MANIFEST, value)
        self._collect()

    def _final(self, manifest: Mapping[str, Any]) -> StorePath:
        return self.folder / f"step-{manifest['step']:09d}"

    def _place_of_parts(self, manifest: Mapping[str, Any]) -> StorePath:
        """A stage that all ranks know; in an object store the manifest, put last, is enough."""
        if isinstance(self.folder, ObjectPath):
            return self._final(manifest)
        return self.folder / f"{STAGE_PREFIX}{self.token}-{manifest['step']}"

    def _whole(self, manifest: Mapping[str, Any], files: Files, best: bool) -> dict[str, Any]:
        extra = {"files": files, "token": self.token, "digests": dict(self.digests), "best": best}
        return dict(manifest) | extra

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """See `Checkpoints`."""
        skipped: list[str] = []
        for folder in reversed(self._folders()):
            try:
                return self._verified(folder), skipped
            except ArtifactError as error:
                skipped.append(f"checkpoint {folder.name} is passed over: {error}")
        return None, skipped

    def best(self) -> Checkpoint | None:
        """See `Checkpoints`."""
        for folder in reversed(self._folders()):
            try:
                checkpoint = self._verified(folder)
            except ArtifactError:
                continue
            if checkpoint.manifest.get("best"):
                return checkpoint
        return None

    def cut(self, step: int) -> None:
        """Forget checkpoints after `step`: a resumed run will take them again."""
        for folder in self._folders():
            if int(folder.name.removeprefix("step-")) > step:
                remove_folder(folder, MANIFEST)

    def _folders(self) -> list[StorePath]:
        found = (path for path in self.folder.glob("step-*") if STEP_PATTERN.match(path.name))
        return sorted(found, key=lambda folder: folder.name)

    def _verified(self, stored_folder: StorePath) -> Checkpoint:
        with understood(stored_folder / MANIFEST):
            return self._read(stored_folder)

    def _read(self, stored_folder: StorePath) -> Checkpoint:
        read_json(stored_folder / MANIFEST)  # before anything is copied for it
        folder = local_copy(stored_folder)
        manifest = read_json(folder / MANIFEST)
        for name, stored in manifest["files"].items():
            path = folder / name
            if not path.exists() or path.stat().st_size != stored["bytes"]:
                raise ArtifactError(f"{path}: is missing or cut short")
            if sha256_of(path) != stored["sha256"]:
                raise ArtifactError(f"{path}: its content has changed")
        differing = [k for k, v in self.digests.items() if manifest["digests"].get(k) != v]
        if differing:
            raise ArtifactError(f"{folder}: was taken with other {' and '.join(differing)}")
        return Checkpoint(folder, manifest)

    def _collect(self) -> None:
        """Keep the newest `keep` and the newest best; sweep what killed writers left."""
        folders = self._folders()
        best = [folder for folder in folders if _is_best(folder)]
        kept = set(folders[-self.keep :]) | set(best[-1:])
        for folder in folders:
            if folder not in kept:
                remove_folder(folder, MANIFEST)
        for stage in self.folder.glob(f"{STAGE_PREFIX}*"):
            remove_folder(stage)


def facts_of(folder: Path) -> Files:
    """Size and SHA-256 of each file of a folder."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }


def _is_best(folder: StorePath) -> bool:
    try:
        return bool(read_json(folder / MANIFEST).get("best"))
    except ArtifactError:
        return False


class ScratchCheckpoints:
    """Only the best, in a temporary folder of this process."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="heliostat-")
        self._best: Checkpoint | None = None

    def save(
        self, manifest: Mapping[str, Any], write: Callable[[Path], None], best: bool, due: bool
    ) -> None:
        """See `Checkpoints`; what is not the best is not kept."""
        if best:
            folder = Path(self._scratch.name)
            with on_full_disk(folder):
                write(folder)
            self._best = Checkpoint(folder, dict(manifest))

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """Every process starts afresh."""
        return None, []

    def best(self) -> Checkpoint | None:
        """See `Checkpoints`."""
        return self._best


class TrialCheckpoints:
    """For a trial on one rank: each new best stays with the process, which costs little; what is
    due is committed, and with it the best, so that another process can go on.
    """

    def __init__(self, lasting: CommittedCheckpoints) -> None:
        self._lasting, self._scratch = lasting, ScratchCheckpoints()

    def save(
        self, manifest: Mapping[str, Any], write: Callable[[Path], None], best: bool, due: bool
    ) -> None:
        """See `Checkpoints`."""
        if best:
            self._scratch.save(manifest, write, best, due)
        if not due:
            return
        kept = self._scratch.best()
        if kept is not None and not best:
            self._lasting.save(kept.manifest, partial(_copy_files, kept.folder), True, due)
        self._lasting.save(manifest, write, best, due)

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """See `Checkpoints`."""
        return self._lasting.latest()

    def best(self) -> Checkpoint | None:
        """See `Checkpoints`."""
        return self._scratch.best() or self._lasting.best()


def _copy_files(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
