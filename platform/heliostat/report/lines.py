"""Text that fits the terminal: broken between words, with a hanging indent."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size

PROGRAM = "heliostat"
HANG = 10  # where the values of `key       value` lines begin
PLAIN_SIGNS = str.maketrans({"±": "+-", "…": "~", "–": "-", "×": "x"})


def wrapped(text: str, width: int, hang: int = HANG) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words. A word that is wider than a
    whole line stays in one piece.
    """
    lines, line = [], ""
    for word in re.findall(r"\s*\S+", text):
        if line.strip() and cell_len(line + word) > width:
            lines.append(line)
            line, word = "", " " * min(hang, width // 3) + word.lstrip()
        if not line and cell_len(word) > width:  # rather less of an indent
            bare = word.lstrip()
            word = " " * max(0, width - cell_len(bare)) + bare
        line += word
    return [*lines, line] if line else lines


def command_lines(command: str, width: int, indent: int = 2) -> list[str]:
    """A command to be copied: its lines go on as a shell reads them."""
    first, *words = map(shlex.quote, shlex.split(command))
    lines, line = [], " " * indent + first
    for word in words:
        if cell_len(f"{line} {word} \\") > width:
            lines.append(f"{line} \\")
            line = " " * max(0, min(indent + 2, width - cell_len(f"{word} \\"))) + word
        else:
            line += f" {word}"
    return [*lines, line]


def as_typed(command: str) -> str:
    """A command of ours, by the name that this process was called by where no other is found."""
    called = sys.argv[0]
    if Path(called).name != PROGRAM or shutil.which(PROGRAM) is not None:
        return command
    return re.sub(rf"^{PROGRAM}(?= )", lambda _: shlex.quote(called), command)


def command_of(*words: object) -> str:
    """Our command with these words, as a shell reads it."""
    return shlex.join([PROGRAM, *map(str, words)])


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool], gap: int = 2) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * gap)
        .join(
            " " * (width - cell_len(cell)) + cell if to_right else set_cell_size(cell, width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        .rstrip()
        for row in rows
    ]


def shortened(text: str, width: int) -> str:
    """`text` whose words have at most `width` cells each, with a sign where one was longer."""
    return re.sub(r"\S+", lambda match: _short(match[0], max(1, width)), text)


def encodable(text: str, encoding: str) -> str:
    """`text` as an output of this encoding can show it: our signs as letters, the rest escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(PLAIN_SIGNS)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _short(word: str, width: int) -> str:
    if cell_len(word) <= width:
        return word
    return set_cell_size(word, width - 1).rstrip() + "…"
