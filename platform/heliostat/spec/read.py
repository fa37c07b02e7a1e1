"""`data.read`: how delimited text is read."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from heliostat.spec.base import Spec

Separator = Literal[",", ".", "'", "\u2019", "_", " ", "\u00a0", "\u202f"]
MISSING_WORDS = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A",
    "NA", "NULL", "NaN", "n/a", "nan", "null",
)  # fmt: skip


def _word(value: Any) -> Any:
    """`missing: [-999]` means the text `-999`."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class ReadSpec(Spec):
    """The settings of delimited text; one that is left out is CSV's usual one, and the delimiter
    follows from the file's suffix. Spaces around a value are never part of it.

    `header` names the columns of files whose first row holds data; `true` says that the first row
    holds names, whatever it looks like. `missing` are the words that stand for no value, besides
    an empty one, which always does.
    """

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] = "."
    thousands: Separator | None = None
    encoding: str = "utf-8"
    header: Literal[True] | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = (
        None
    )
    missing: Annotated[tuple[Annotated[str, BeforeValidator(_word)], ...], Field(strict=False)] = (
        MISSING_WORDS
    )

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, value: str | None) -> str | None:
        if value is not None and (value.isalnum() or value in '"\r\n\\.'):
            raise ValueError("cannot separate columns; write one like `;`, `|` or `\\t`")
        if value is not None and not value.isascii():
            raise ValueError("must be one character of ASCII, like `;`, `|` or `\\t`")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            codec = codecs.lookup(value)
        except LookupError:
            raise ValueError("is no encoding known here; write one like `latin-1`") from None
        if not codec._is_text_encoding:
            raise ValueError("is no encoding of text; write one like `latin-1`")
        return value

    @field_validator("header")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError(f"names `{max(value, key=value.count)}` twice")
        return value

    @model_validator(mode="after")
    def _differ(self) -> ReadSpec:
        if self.thousands == self.decimal:
            raise ValueError(f"`{self.decimal}` cannot be both `decimal` and `thousands`")
        return self
