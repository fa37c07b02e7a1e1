"""Names for models: MODEL@ALIAS points at a run, and remembers the runs it pointed at before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from heliostat.errors import Problem, UserError
from heliostat.storage.files import read_json, write_json
from heliostat.storage.objects import StorePath

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


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
    return read_json(path) if path.exists() else None


def write_promoted(root: StorePath, name: str, value: Mapping[str, Any]) -> None:
    """Point `name` at the run of `value`; what it pointed at is remembered."""
    now = read_promoted(root, name)
    before = [] if now is None else [*now.pop("before"), _plain(now)]
    path = _path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(value) | {"name": name, "before": before})


def aliases(root: StorePath) -> list[str]:
    """All names, sorted."""
    return sorted(read_json(path)["name"] for path in (root / "models").glob("*/*.json"))


def lock_place(root: StorePath, name: str) -> StorePath:
    """Where the lease of who changes `name` lies."""
    path = _path(root, name)
    return path.parent / f".{path.name.removesuffix('.json')}.lease"


def _path(root: StorePath, name: str) -> StorePath:
    model, alias = parse_name(name)
    return root / "models" / model / f"{alias}.json"


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if key not in ("format", "name")}
