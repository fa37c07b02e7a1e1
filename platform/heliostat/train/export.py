"""A finished model in the formats of other libraries."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from heliostat.data.inherit import DESCRIPTION
from heliostat.errors import Problem, UserError
from heliostat.models.huggingface import export
from heliostat.models.network import WEIGHTS
from heliostat.models.predictor import Shape
from heliostat.spec.model import GptModel, Model
from heliostat.storage.cache import local_copy
from heliostat.storage.files import read_json, understood
from heliostat.storage.folders import publish_folder, staged
from heliostat.storage.objects import StorePath
from heliostat.train.artifact import TOKENIZERS


def export_huggingface(model: StorePath, target: Path) -> None:
    """Write the language model in the folder `model` as `transformers` loads it.

    Raises:
        UserError: it is no language model, or `target` exists.
    """
    if target.exists():
        raise UserError(Problem("--out", f"`{target}` exists", "name a new folder"))
    folder = local_copy(model)
    value = read_json(folder / DESCRIPTION)
    with understood(model / DESCRIPTION):
        spec = TypeAdapter(Model).validate_python(value["model"])
        if not isinstance(spec, GptModel):
            what = f"`huggingface` takes models of kind `gpt`, not `{value['kind']}`"
            raise UserError(Problem("--format", what))
        digest = value["target"]["form"].partition(":")[2]
        shape = Shape.from_json(value["shape"])
    tokenizer = folder / TOKENIZERS / digest
    with staged(target.absolute().parent) as stage:
        export(spec, shape, folder / WEIGHTS, tokenizer if tokenizer.exists() else None, stage)
        if not publish_folder(stage, target.absolute(), "config.json"):
            raise UserError(Problem("--out", f"`{target}` appeared while exporting"))
