"""The user's own Python: which files it is, the digest that identities carry, its import."""

from __future__ import annotations

import hashlib
import importlib
import io
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

from heliostat.errors import Problem, UserError
from heliostat.spec.identity import DIGEST_LENGTH
from heliostat.storage.cache import local_copy
from heliostat.storage.folders import publish_folder, remove_folder, staged
from heliostat.storage.objects import StorePath

CODE_FOLDER = "code"
MAX_BYTES = 2**30
MAX_ENTRIES = 100_000
REMEDY = "name its package's folder"
NO_CODE = "none"
EVERYTHING = ("*",)


def code_files(folder: Path, patterns: Sequence[str] = EVERYTHING) -> list[Path]:
    """The files under `folder` whose name, or path from there, matches one of `patterns`, without
    hidden files, bytecode and virtual environments. In a copy of a job's code everything is code.

    Raises:
        UserError: the folder is missing, holds no Python, nothing of a pattern, more than 1 GiB, or
            a link that leads out of it or back to where it came from.
    """
    if not folder.is_dir():
        raise UserError(Problem("code.path", f"`{folder}` is no folder"))
    every = _files(folder)
    of_pattern = {p: {path for path in every if _matches(path, folder, p)} for p in patterns}
    files = sorted(set().union(*of_pattern.values()))
    for path in files:
        if path.is_symlink():
            _within(path, folder.resolve())
    if not any(path.suffix == ".py" for path in files):
        raise UserError(Problem("code.path", f"`{folder}` holds no Python file"))
    for pattern, found in of_pattern.items():
        if not found:
            raise UserError(Problem("code.include", f"no file of `{folder}` is called `{pattern}`"))
    total = num_bytes(files)
    if total > MAX_BYTES:
        what = f"`{folder}` holds {total:,} bytes of code, and {MAX_BYTES:,} are the most"
        raise UserError(Problem("code.path", what, REMEDY))
    return files


def num_bytes(files: Sequence[Path]) -> int:
    """What files take."""
    return sum(path.stat().st_size for path in files)


def code_digest(folder: Path, patterns: Sequence[str] = EVERYTHING) -> str:
    """A digest of names and contents: an edited file is another code."""
    digest = hashlib.sha256()
    for path in code_files(folder, patterns):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\x1f{content}\x1e".encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


def copy_code(folder: Path, target: Path, patterns: Sequence[str] = EVERYTHING) -> None:
    """Copy a job's own code, keeping the files' places."""
    for path in code_files(folder, patterns):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def keep_code(source: Path, patterns: Sequence[str], digest: str, run: StorePath) -> StorePath:
    """The copy of a job's own code in the folder of its run, made now if it is not there, whole."""
    kept = run / CODE_FOLDER
    if not (kept.exists() and code_digest(local_copy(kept)) == digest):
        remove_folder(kept)
        with staged(run) as stage:
            copy_code(source, stage, patterns)
            publish_folder(stage, kept, code_files(stage)[-1].relative_to(stage).as_posix())
    return kept


@dataclass(frozen=True)
class PackedCode:
    """A job's own code as one archive, called by the digest of its bytes."""

    content: bytes
    digest: str

    @property
    def place(self) -> str:
        """Where it lies in a storage."""
        return f"{CODE_FOLDER}/{self.digest}.zip"


def pack_code(folder: Path, patterns: Sequence[str] = EVERYTHING) -> PackedCode:
    """A job's own code as a zip archive: the same files are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in code_files(folder, patterns):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())  # dated 1980, for all
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    content = buffer.getvalue()
    return PackedCode(content, hashlib.sha256(content).hexdigest())


def unpack_code(content: bytes, name: str, target: Path) -> None:
    """Unpack an archive that is called by its digest.

    Raises:
        UserError: its bytes are not those that its name promises.
    """
    found = hashlib.sha256(content).hexdigest()
    if name != f"{found}.zip":
        what = f"`{name}` is not what was sent: its digest is {found}"
        raise UserError(Problem("code.path", what, "submit the job again"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        if total > MAX_BYTES:
            what = f"`{name}` unpacks to {total:,} bytes, and {MAX_BYTES:,} are the most"
            raise UserError(Problem("code.path", what, REMEDY))
        archive.extractall(target)


def import_from(code: Path, name: str, key: str) -> ModuleType:
    """Import `name` with `code` first on the path, dropping a copy from another folder. `key` of
    the job asked for it.

    Raises:
        UserError: it does not lie there, or its own code fails.
    """
    top = name.partition(".")[0]
    if not ((code / top).is_dir() or (code / f"{top}.py").is_file()):
        raise UserError(Problem(key, f"`{top}` does not lie in {code}"))
    loaded = sys.modules.get(top)
    if loaded is not None and not _lies_in(loaded, code):
        for other in [key for key in sys.modules if key == top or key.startswith(top + ".")]:
            del sys.modules[other]
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's own module may fail in any way
        text = f"`{name}` cannot be imported from {code}: {type(error).__name__}: {error}"
        raise UserError(Problem(key, text)) from error
    finally:
        sys.path.remove(str(code))


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(place and Path(place).resolve().is_relative_to(folder) for place in places)


def _files(folder: Path) -> list[Path]:
    """All files, without what is never code. Links to folders stay within `folder`, and lead to an
    end; those to files are for who takes them to check.
    """
    whole = folder.resolve()
    found: list[Path] = []
    # Each with the real folders that it lies in.
    left: list[tuple[Path, tuple[Path, ...]]] = [(folder, (whole,))]
    num_entries = 0
    while left:
        here, above = left.pop()
        for path in here.iterdir():
            num_entries += 1
            if num_entries > MAX_ENTRIES:
                what = f"`{folder}` holds more than {MAX_ENTRIES:,} files and folders"
                raise UserError(Problem("code.path", what, REMEDY))
            if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
                continue
            if path.is_dir() and not (path / "pyvenv.cfg").exists():
                real = _within(path, whole)
                if real in above:
                    what = f"`{path}` is a link to a folder that it lies in, `{real}`"
                    raise UserError(Problem("code.path", what, "remove the link"))
                left.append((path, (*above, real)))
            elif path.is_file():
                found.append(path)
    return found


def _within(path: Path, whole: Path) -> Path:
    """Where `path` really lies: somewhere in the folder `whole`."""
    real = path.resolve()
    if not real.is_relative_to(whole):
        what = f"`{path}` is a link that leads out of the folder, to `{real}`"
        raise UserError(Problem("code.path", what, f"copy what it needs into it, or {REMEDY}"))
    return real


def _matches(path: Path, folder: Path, pattern: str) -> bool:
    names = (path.name, path.relative_to(folder).as_posix())
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)
