"""The transforms of a model that another one begins from.

Its weights mean what its own transforms made of the inputs: the same vocabularies, the same
scales, the same order. So the new model takes them over, and fits only its target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from heliostat.data.encode import Encoder
from heliostat.data.learned import have_one_text
from heliostat.errors import Problem, UserError
from heliostat.storage.cache import local_copy
from heliostat.storage.files import read_json, understood
from heliostat.storage.objects import as_path

DESCRIPTION = "model.json"


def inherited(encoder: Encoder, location: str | None, types: Mapping[str, str]) -> Encoder:
    """`encoder` with the inputs' transforms of the model folder at `location`; as it is if there
    is none, or only bare weights. `types` are those of the source, by column.

    Raises:
        UserError: the model has other inputs, or learned a category from values of another type.
    """
    if location is None or not (as_path(location) / DESCRIPTION).exists():
        return encoder
    folder = local_copy(as_path(location))
    with understood(as_path(location) / DESCRIPTION):
        description = read_json(folder / DESCRIPTION)
    old = Encoder.from_json(description["transforms"], str(folder / "code"))
    before, now = _inputs(old), _inputs(encoder)
    if before != now:
        lacking = ", ".join(sorted(before - now)) or "none"
        added = ", ".join(sorted(now - before)) or "none"
        message = f"its inputs are others: lacking here {lacking}; only here {added}"
        remedy = "give `data.features` the same columns and types"
        raise UserError(Problem("model.init_from", f"`{location}`: {message}", remedy))
    learned = description.get("types", {})
    for name in (category.name for category in old.categories):
        if name in learned and not have_one_text(learned[name], types[name]):
            message = (
                f"`{location}`: learned `{name}` as {learned[name]}, which is {types[name]} here"
            )
            remedy = "give the column the type it had, or leave `init_from` out"
            raise UserError(Problem("model.init_from", message, remedy))
    return replace(old, target=encoder.target)


def _inputs(encoder: Encoder) -> set[str]:
    names = {f"{number.name} {number.part}".strip() for number in encoder.numbers}
    names |= {category.name for category in encoder.categories}
    names |= {text.name for text in encoder.texts}
    return names | {text.name for text in encoder.tokens}
