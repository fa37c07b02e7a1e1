"""YAML 1.2 (and so JSON) into plain values, with the line and column of every key.

The safe core only: no tags, no duplicate keys, no merge keys, and bounds on the file's size, its
depth and what its aliases grow to, so that no file can run code or take long to read.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from heliostat.errors import Problem, SpecError

KeyPath = tuple[str | int, ...]
MAX_BYTES = 2**20
MAX_DEPTH = 64
MAX_NODES = 100_000  # with the keys
MAX_DIGITS = 400
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
LONGEST_KEY = 1000  # of those written before a colon; YAML reads 1,024 characters
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
        SpecError: the file cannot be read, is no YAML, is too large or too deep, or repeats a key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = "" if len(content) > MAX_BYTES else content.decode("utf-8")
    except FileNotFoundError:
        raise SpecError(Problem(str(path), "no such file")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(Problem(str(path), f"cannot be read: {error}")) from error
    if len(content) > MAX_BYTES:
        raise SpecError(_too_large(str(path)))
    return parse_text(text, str(path), path.parent.resolve())


def parse_text(text: str, file: str, folder: Path) -> Document:
    """Parse `text`, naming it `file` in messages."""
    if len(text) > MAX_BYTES:
        raise SpecError(_too_large(file))
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _ShallowComposer
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


def yaml_text(value: dict[str, Any]) -> str:
    """`value` as YAML in the order of its keys."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def parse_scalar(text: str) -> Any:
    """The value that `text` would have in a file: `3`, `true`, `[1, 2]`, `word`."""
    return parse_text(text, "--set", Path.cwd()).value if text.strip() else text


def _too_large(file: str) -> Problem:
    what = f"holds more than {MAX_BYTES:,} bytes, the most that is read of a job or site file"
    return Problem(
        file, what, "name data by `data.source`, and leave out what the job does not use"
    )


def quoted(text: str) -> str:
    """`text` as a value or a key that means just that text: bare where it can be, in one line."""
    if re.fullmatch(r"[A-Za-z_/.][\w/.-]*", text, re.ASCII) and parse_scalar(text) == text:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    digits = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return f"\\{'xuU'[digits // 4]}{code:0{digits}x}"


def _syntax_problem(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
    bound = "" if isinstance(error, _BoundError) else "is no YAML: "
    return Problem(place, f"{bound}{error.problem or error.context}")


class _BoundError(MarkedYAMLError):
    """The text is larger or deeper than what is read."""


class _ShallowComposer(Composer):
    """Composes so many nodes, and to such a depth: each level is a call within a call."""

    depth = num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See `Composer`."""
        self.num_nodes += 1
        self.depth += 1
        if self.depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            deep = f"values lie more than {MAX_DEPTH} levels deep"
            what = deep if self.depth > MAX_DEPTH else f"has more than {MAX_NODES:,} values"
            raise _BoundError(None, None, what, self.parser.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


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
        if len(path) > MAX_DEPTH:  # an alias may stand inside of what it stands for
            what = f"values lie more than {MAX_DEPTH} levels deep; does an alias refer to itself?"
            raise SpecError(Problem(str(self._place(node)), what))
        self.places.setdefault(path, self._place(node))
        if not isinstance(node, ScalarNode) and node.tag not in PLAIN_TAGS:
            self._complain(node, f"tag `{node.tag}` is not allowed; write a plain value")
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
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self._complain(node, f"a number of {len(text):,} digits is too long to read")
            return 0
        if kind == "int":
            return _whole(text)
        if kind == "float":
            return self._real(node, text)
        if kind not in ("str", "timestamp"):
            self._complain(node, f"tag `{node.tag}` is not allowed; write a plain value")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self._complain(node, "holds half of a surrogate pair, which is no letter")
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
