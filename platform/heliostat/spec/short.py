"""Short forms: one word in place of a mapping whose other keys keep their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BeforeValidator

SHORT_FORMS: dict[tuple[str, ...], str] = {  # what the word stands for; `*` is any key
    ("objective",): "metric",
    ("model",): "kind",
    ("data", "split"): "method",
    ("data", "features", "*"): "type",
    ("train", "loss"): "name",
    ("train", "optimizer"): "name",
    ("train", "schedule"): "name",
    ("tune", "scheduler"): "name",
}


def short_for(key: str, whole: Any) -> BeforeValidator:
    """Lets a word stand for `{key: word}`, in files and in the schema of `whole`."""
    return BeforeValidator(_expanding(key), json_schema_input_type=whole | str)


def long_forms(value: Mapping[str, Any]) -> dict[str, Any]:
    """A job with every short form written out, so that other keys can be set beside the word."""
    result = dict(value)
    for (first, *rest), key in SHORT_FORMS.items():
        if first in result:
            result[first] = _written_out(result[first], rest, key)
    return result


def _written_out(value: Any, rest: list[str], key: str) -> Any:
    if not rest:
        return _expanding(key)(value)
    if not isinstance(value, Mapping):
        return value
    names = list(value) if rest[0] == "*" else [name for name in rest[:1] if name in value]
    return {**value, **{name: _written_out(value[name], rest[1:], key) for name in names}}


def _expanding(key: str) -> Callable[[Any], Any]:
    return lambda value: {key: value} if isinstance(value, str) else value
