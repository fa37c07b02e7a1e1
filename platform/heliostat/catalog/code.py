"""The user's own Python: which files it is, the digest that identities carry, its import."""

from __future__ import annotations

import hashlib
import importlib
import io
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from heliostat.errors import Problem, UserError
from heliostat.spec.identity import DIGEST_LENGTH

CODE_FOLDER = "code"
MAX_BYTES = 20 * 2**20
NO_CODE = "none"


def code_files(folder: Path) -> list[Path]:
    """Every Python file under `folder`, without hidden folders and virtual environments.

    Raises:
        UserError: the folder is missing, holds no Python, or more than 20 MiB of it.
    """
    if not folder.is_dir():
        raise UserError(Problem("code.path", f"`{folder}` is no folder"))
    files = sorted(_python_files(folder))
    if not files:
        raise UserError(Problem("code.path", f"`{folder}` holds no Python file"))
    total = sum(path.stat().st_size for path in files)
    if total > MAX_BYTES:
        raise UserError(
            Problem(
                "code.path",
                f"`{folder}` holds {total:,} bytes of Python",
                "name its package's folder",
            )
        )
    return files


def code_digest(folder: Path) -> str:
    """A digest of names and contents: an edited file is another code."""
    digest = hashlib.sha256()
    for path in code_files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\x1f{content}\x1e".encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


def copy_code(folder: Path, target: Path) -> None:
    """Copy the Python files, keeping their places."""
    for path in code_files(folder):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


@dataclass(frozen=True)
class PackedCode:
    """A job's own code as one archive, called by the digest of its bytes."""

    content: bytes
    digest: str

    @property
    def place(self) -> str:
        """Where it lies in a storage."""
        return f"{CODE_FOLDER}/{self.digest}.zip"


def pack_code(folder: Path) -> PackedCode:
    """The Python files of `folder` as a zip archive: the same files are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in code_files(folder):
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


def _python_files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir() and not (path / "pyvenv.cfg").exists():
            found += _python_files(path)
        elif path.suffix == ".py":
            found.append(path)
    return found
