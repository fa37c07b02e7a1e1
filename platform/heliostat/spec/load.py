"""Job files into one `Job`: merged in order, settings applied, checked all at once."""

from __future__ import annotations

import copy
import difflib
import os
import re
import types
import typing
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from heliostat.errors import Problem, SpecError
from heliostat.spec.job import JobSpec
from heliostat.spec.short import long_forms
from heliostat.spec.site import SiteSpec
from heliostat.spec.synonyms import key_meant
from heliostat.spec.yaml import MAX_DEPTH, Document, KeyPath, Place, parse_file, parse_scalar

AnySpec = TypeVar("AnySpec", bound=BaseModel)
MOST_NAME_LETTERS = 30
PATTERNS_IN_WORDS = {
    "name": f"must be up to {MOST_NAME_LETTERS} lower-case letters, digits or '-', begin with a "
    "letter, and not end with '-'"
}
SCALAR_TYPES = ("int_type", "float_type", "string_type", "literal_error")
PATH_KEYS: tuple[KeyPath, ...] = (
    ("data", "source"),
    ("data", "source", "delta"),
    ("data", "split", "validation"),
    ("data", "split", "test"),
    ("storage",),
    ("code", "path"),
    ("code", "requirements"),
    ("model", "init_from"),
    ("model", "tokenizer"),
)


@dataclass(frozen=True)
class Job:
    """A checked job, as it was written (`value`, paths made absolute) and as a spec; `folder` is
    where its (first) file lies.
    """

    spec: JobSpec
    value: Mapping[str, Any]
    places: Mapping[KeyPath, Place]
    folder: str

    def problem(self, key: str, message: str, hint: str = "") -> Problem:
        """A problem with the key `data.split` (or `data.features.x`), at its place."""
        path = tuple(key.split("."))
        return Problem(_locate(self.places, path), f"{key}: {message}", hint)

    def replace(self, settings: Mapping[str, Any]) -> Job:
        """This job with some dotted keys set to other values: what a trial is.

        Raises:
            SpecError: a key does not exist, or does not take the value.
        """
        value = copy.deepcopy(dict(self.value))
        for key, setting in settings.items():
            value = long_forms(value)
            _set(value, key, setting)
        return Job(validate(JobSpec, value, self.places), value, self.places, self.folder)


def load_job(*files: str | Path, settings: Sequence[str] = ()) -> Job:
    """Read job files, merge them in order (RFC 7396), apply `a.b=c` settings, and check.

    Raises:
        SpecError: with every problem found, each by file, line and column.
    """
    if not files:
        raise SpecError("no job file given")
    merged: dict[str, Any] = {}
    places: dict[KeyPath, Place] = {}
    for file in files:
        document = parse_file(Path(file))
        if not isinstance(document.value, dict):
            raise SpecError(Problem(str(file), "must be a mapping of keys, like `name: ...`"))
        merged = merge_patch(long_forms(merged), document.value)
        places.update(document.places)
    for setting in settings:
        _apply_setting(merged, places, setting)
    value = _absolute_paths(long_forms(merged), places)
    first = Path(files[0])
    folder = first.absolute().parent if first.is_file() else Path.cwd()  # not that of a pipe
    return Job(validate(JobSpec, value, places), value, places, str(folder))


def load_site(path: Path) -> SiteSpec:
    """Read the site file at `path`; without one, an empty site."""
    if not path.exists():
        return SiteSpec()
    document: Document = parse_file(path)
    return validate(SiteSpec, document.value, document.places)


def merge_patch(base: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def validate(
    model: type[AnySpec], value: Mapping[str, Any], places: Mapping[KeyPath, Place]
) -> AnySpec:
    """`value` as `model`, or a SpecError with all that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = [detail for detail in error.errors() if not _is_other_form(detail)]
        problems = [_problem(model, value, places, detail) for detail in details or error.errors()]
        raise SpecError(list(dict.fromkeys(problems))) from None


def _apply_setting(value: dict[str, Any], places: dict[KeyPath, Place], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise SpecError(Problem(f"--set {setting}", "write it as key=value, like train.epochs=3"))
    value.update(long_forms(value))
    _set(value, key, parse_scalar(text))
    places[tuple(key.split("."))] = Place(f"--set {setting}")


def _set(value: dict[str, Any], key: str, setting: Any) -> None:
    *parents, last = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise SpecError(Problem(f"--set {key[:40]}...", f"is more than {MAX_DEPTH} levels deep"))
    node = value
    for parent in parents:
        child = node.get(parent)
        node[parent] = child = dict(child) if isinstance(child, dict) else {}
        node = child
    node[last] = setting


def _absolute_paths(value: dict[str, Any], places: Mapping[KeyPath, Place]) -> dict[str, Any]:
    result = copy.deepcopy(value)
    for path in (*PATH_KEYS, *_tokenizer_keys(value)):
        parent: Any = result
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and path[-1] in parent:
            if path[:2] == ("data", "split") and parent.get("method") != "source":
                continue
            folder = _nearest(places, path).folder
            named = path in (("model", "init_from"), ("model", "tokenizer"))
            if named and not (folder / str(parent[path[-1]])).exists():
                continue  # a run, or a tokenizer of ours, by its name
            parent[path[-1]] = _absolute(parent[path[-1]], folder)
    return result


def _tokenizer_keys(value: Mapping[str, Any]) -> Iterator[KeyPath]:
    data = value.get("data")
    features = data.get("features") if isinstance(data, dict) else None
    for name in features if isinstance(features, dict) else ():
        yield ("data", "features", name, "tokenizer")


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if isinstance(value, str) and "://" not in value:
        return str(folder / os.path.expanduser(value))  # which leaves a `~` that names nobody
    return value


def _nearest(places: Mapping[KeyPath, Place], path: KeyPath) -> Place:
    for end in range(len(path), -1, -1):
        if path[:end] in places:
            return places[path[:end]]
    return Place("job")


def _locate(places: Mapping[KeyPath, Place], path: KeyPath) -> str:
    return str(_nearest(places, path))


def _problem(
    model: type[BaseModel],
    value: Mapping[str, Any],
    places: Mapping[KeyPath, Place],
    detail: Any,
) -> Problem:
    path = _real_path(value, detail["loc"])
    name = ".".join(str(part) for part in path) or "the file"
    place = _locate(places, path)
    if detail["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, value, path[:-1]))
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        meant = key_meant(str(path[-1]), value) if model is JobSpec else None
        meant = meant or (close[0] if close else None)
        hint = f"did you mean `{meant}`?" if meant else f"known here: {', '.join(known)}"
        owner = _kind_at(value, path[:-1])
        return Problem(place, f"{name}: unknown key{owner}", hint)
    if detail["type"] == "missing":
        return Problem(place, f"{name}: this key is required")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"].startswith("union_tag"):
        return _tag_problem(place, name, detail)
    given = detail.get("input")
    shown = f"`{given}`: " if isinstance(given, (str, int, float, bool)) else ""
    if detail["type"] == "string_pattern_mismatch" and name in PATTERNS_IN_WORDS:
        return Problem(place, f"{name}: {shown}{PATTERNS_IN_WORDS[name]}", _fitting_name(given))
    hint = _nearest_word(given, detail) if detail["type"] == "literal_error" else ""
    return Problem(place, f"{name}: {shown}{message[:1].lower()}{message[1:]}", hint)


def _fitting_name(given: str) -> str:
    """A name of the same letters that fits."""
    plain = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode().lower()
    words = re.findall("[a-z0-9]+", plain)
    if words and not words[0][0].isalpha():
        words.insert(0, "job")
    name = "-".join(words)[:MOST_NAME_LETTERS].rstrip("-")
    return f"for example `{name or 'my-job'}`"


def _nearest_word(given: Any, detail: Any) -> str:
    allowed = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    close = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else ""


def _tag_problem(place: str, name: str, detail: Any) -> Problem:
    context = detail.get("ctx", {})
    tag = str(context.get("tag", ""))
    expected = [word.strip(" '") for word in str(context.get("expected_tags", "")).split(",")]
    close = difflib.get_close_matches(tag, expected, n=1, cutoff=0.5)
    if not tag:
        key = str(context.get("discriminator", "'kind'")).strip("'()")
        return Problem(place, f"{name}: `{key}` is required here")
    hint = f"did you mean `{close[0]}`?" if close else f"one of: {', '.join(expected)}"
    return Problem(place, f"{name}: `{tag}` is not known", hint)


def _is_other_form(detail: Any) -> bool:
    """Whether a mapping only fails to be the plain value that might stand in its place."""
    return isinstance(detail["input"], Mapping) and detail["type"] in SCALAR_TYPES


def _real_path(value: Any, location: Sequence[str | int]) -> KeyPath:
    """The key path of a pydantic location: without the tags of unions and types."""
    path: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(value, Mapping) and isinstance(part, str):
            is_tag = part not in value and i + 1 < len(location)
            is_tag = is_tag or part.startswith("function-")  # a check of a whole variant
            is_tag = is_tag or part in (value.get("kind"), value.get("method"), value.get("type"))
            if is_tag and part not in value:
                continue
            path.append(part)
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and isinstance(part, int):
            path.append(part)
            value = value[part] if part < len(value) else None
        elif part == location[-1] and value is None and isinstance(part, str) and path == []:
            path.append(part)
    return tuple(path)


def _kind_at(value: Any, path: KeyPath) -> str:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return f" of a model of kind `{kind}`" if kind else ""


def _fields_at(model: type[BaseModel], value: Any, path: KeyPath) -> set[str]:
    """The keys that may stand at `path`, following the variant that `value` chose."""
    candidates = [model]
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
        found: list[type[BaseModel]] = []
        for candidate in candidates:
            for name, info in candidate.model_fields.items():
                if part == (info.alias or name):
                    found.extend(_models_in(info.annotation))
            if not any(part == (i.alias or n) for n, i in candidate.model_fields.items()):
                found.append(candidate)  # a key of a mapping: its values share one type
        candidates = [c for c in found if _matches(c, value)] or found
    return {info.alias or name for c in candidates for name, info in c.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, typing.Union, types.UnionType, dict, tuple, list):
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _matches(model: type[BaseModel], value: Any) -> bool:
    if not isinstance(value, Mapping):
        return True
    for key in ("kind", "method", "type", "name"):
        info = model.model_fields.get(key)
        if info is not None and key in value and get_origin(info.annotation) is typing.Literal:
            return value[key] in get_args(info.annotation)
    return True
