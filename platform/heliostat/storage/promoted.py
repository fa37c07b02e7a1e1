"""Names for models: MODEL@ALIAS points at a run, and remembers the runs it pointed at before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from heliostat.errors import Problem, UserError
from heliostat.storage.files import read_as, write_json
from heliostat.storage.objects import StorePath

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Promoted(BaseModel, extra="allow"):
    """What stands behind a name: the run, when it was named, and by what it was compared."""

    run: str
    time: float | None = None
    objective: dict[str, Any] = {}
    score: float | None = None
    data_digest: str | None = None
    before: list[dict[str, Any]] = []


def parse_name(name: str) -> tuple[str, str]:
    """The model and the alias of `MODEL@ALIAS`.

    Raises:
        UserError: it is no such name.
    """
    model, _, alias = name.partition("@")
    if not (NAME_PATTERN.fullmatch(model) and NAME_PATTERN.fullmatch(alias)):
        what = "must be MODEL@ALIAS, each of lower-case letters, digits, '.', '_' or '-'"
        raise UserError(Problem("promote", f"`{name}` {what}", "for example flights@production"))
    return model, alias


def read_promoted(root: StorePath, name: str) -> dict[str, Any] | None:
    """What `name` points at in the storage `root`: its `run`, when it was named, `score` and
    `objective`, and `before`, the same of earlier runs; None if nothing was promoted to it.
    """
    path = _path(root, name)
    return read_as(path, Promoted).model_dump() if path.exists() else None


def write_promoted(
    root: StorePath, name: str, value: Mapping[str, Any], now: Mapping[str, Any] | None
) -> None:
    """Point `name` at the run of `value`; what it points at `now` is remembered."""
    before = [] if now is None else [*now["before"], _plain(now)]
    path = _path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(value) | {"name": name, "before": before})


def aliases(root: StorePath) -> list[str]:
    """All names, sorted."""
    names = (f"{path.parent.name}@{path.stem}" for path in (root / "models").glob("*/*.json"))
    return sorted(name for name in names if NAME_PATTERN.fullmatch(name.replace("@", ".")))


def lock_place(root: StorePath, name: str) -> StorePath:
    """Where the lease of who changes `name` lies."""
    path = _path(root, name)
    return path.parent / f".{path.name.removesuffix('.json')}.lease"


def _path(root: StorePath, name: str) -> StorePath:
    model, alias = parse_name(name)
    return root / "models" / model / f"{alias}.json"


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if key not in ("format", "name", "before")}
