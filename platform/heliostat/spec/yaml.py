"""YAML 1.2 (and so JSON) into plain values, with the line and column of every key.

The safe core only: no tags, no duplicate keys, no merge keys, and a bound on aliases, so that
no file can run code or grow without limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from heliostat.errors import Problem, SpecError

KeyPath = tuple[str | int, ...]
MAX_NODES = 100_000
_TRUE = {"true", "True", "TRUE"}


@dataclass(frozen=True)
class Place:
    """Where a key stands. `folder` is what relative paths written there start from."""

    file: str
    line: int = 0
    column: int = 0
    folder: Path = field(default_factory=Path.cwd)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and the place of every key path in it."""

    value: Any
    places: dict[KeyPath, Place]


def parse_file(path: Path) -> Document:
    """Read `path`.

    Raises:
        SpecError: the file cannot be read, is no YAML, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(Problem(str(path), "no such file")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(Problem(str(path), f"cannot be read: {error}")) from error
    return parse_text(text, str(path), path.parent.resolve())


def parse_text(text: str, file: str, folder: Path) -> Document:
    """Parse `text`, naming it `file` in messages."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        raise SpecError(_syntax_problem(error, file)) from error
    except YAMLError as error:
        raise SpecError(Problem(file, f"is no YAML: {error}")) from error
    builder = _Builder(file, folder)
    value = {} if node is None else builder.build(node, ())
    if builder.problems:
        raise SpecError(builder.problems)
    return Document(value, builder.places)


def parse_scalar(text: str) -> Any:
    """The value that `text` would have in a file: `3`, `true`, `[1, 2]`, `word`."""
    return parse_text(text, "--set", Path.cwd()).value if text.strip() else text


def _syntax_problem(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
    return Problem(place, f"is no YAML: {error.problem or error.context}")


class _Builder:
    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []
        self.num_nodes = 0

    def build(self, node: Node, path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise SpecError(Problem(self.file, f"has more than {MAX_NODES:,} values"))
        self.places.setdefault(path, self._place(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                self._complain(key_node, "a key must be a word")
            elif key in result:
                self._complain(key_node, f"key `{key}` stands here twice; keep one")
            else:
                self.places[(*path, key)] = self._place(key_node)
                result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: Node) -> Any:
        kind = str(node.tag).rsplit(":", 1)[-1]
        text: str = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text in _TRUE
        if kind == "int":
            return _whole(text)
        if kind == "float":
            return self._real(node, text)
        if kind not in ("str", "timestamp"):
            self._complain(node, f"tag `{node.tag}` is not allowed; write a plain value")
        return text

    def _real(self, node: Node, text: str) -> float:
        number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            self._complain(node, f"`{text}` is not a finite number")
        return number

    def _place(self, node: Node) -> Place:
        mark = node.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1, self.folder)

    def _complain(self, node: Node, message: str) -> None:
        self.problems.append(Problem(str(self._place(node)), message))


def _whole(text: str) -> int:
    text = text.replace("_", "")
    return int(text, 0) if text.lstrip("+-")[:2].lower() in ("0x", "0o") else int(text)
