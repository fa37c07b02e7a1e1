"""`model/`: all that is needed to predict, in a process that knows nothing of the training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from heliostat.catalog.code import CODE_FOLDER, code_digest, copy_code
from heliostat.catalog.vocabulary import BYTES, SETTINGS_FILE, TOKENIZER_FILE
from heliostat.data.encode import Encoder
from heliostat.data.inherit import DESCRIPTION
from heliostat.data.pack import Packed, is_missing
from heliostat.data.shares import Share
from heliostat.errors import ArtifactError
from heliostat.models.predictor import Predictor, Savable, Scores, Shape
from heliostat.models.without import without
from heliostat.parallel.device import scoring_device
from heliostat.plan.inputs import InputColumn, PackedColumn
from heliostat.spec.model import Model, ModelSpec
from heliostat.spec.read import ReadSpec
from heliostat.storage.cache import local_copy
from heliostat.storage.files import read_json, understood, write_json
from heliostat.storage.folders import publish_folder, remove_folder, sha256_of, staged
from heliostat.storage.objects import StorePath, as_path
from heliostat.train.assignment import Assignment, OpenData
from heliostat.train.outputs import output_names
from heliostat.train.versions import versions

TOKENIZERS = "tokenizers"


@dataclass(frozen=True)
class TrainedModel:
    """A model that can predict from raw columns. `target` is the text that a language model
    learned to write. `types` are those of the source's columns in training, and `shares` tells how
    many of their values were missing; a model of an earlier version has neither. `read` says how
    the delimited text it learned from was written.
    """

    name: str
    task: str
    kind: str
    objective: str
    inputs: tuple[InputColumn, ...]
    encoder: Encoder
    predictor: Predictor
    spec: ModelSpec
    shape: Shape
    target: PackedColumn | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, Share] = field(default_factory=dict)
    read: ReadSpec | None = None

    @property
    def packed_columns(self) -> tuple[PackedColumn, ...]:
        """The columns that `predict` reads, in the forms it packs them to."""
        return tuple(sorted({packed for column in self.inputs for packed in column.packed}))

    def scores(self, packed: Packed) -> Scores:
        """Scores in the target's own units; rows that cleaning would have dropped are NaN."""
        inputs = self.encoder.encode(packed)
        scores = self.predictor.scores(inputs.numbers, inputs.categories)
        if self.task == "regression":
            scores = scores * self.encoder.target.scale + self.encoder.target.offset
        scores[self._dropped(packed)] = np.nan
        return scores

    def _dropped(self, packed: Packed) -> Any:
        dropped = np.zeros(packed.num_rows, bool)
        for column in self.inputs:
            if column.missing == "drop":
                dropped |= is_missing(packed, column.packed[0])
        return dropped


def save_model(assignment: Assignment, data: OpenData, model: Savable) -> None:
    """Publish the model folder of a finished training, unless nobody wants it."""
    if assignment.model_folder is None:
        return
    folder = as_path(assignment.model_folder)
    with staged(folder.parent) as stage:
        _write_model(assignment, data, model, stage)
        remove_folder(folder, DESCRIPTION)
        publish_folder(stage, folder, DESCRIPTION)


def _write_model(assignment: Assignment, data: OpenData, model: Savable, stage: Path) -> None:
    spec, file = assignment.spec, model.save(stage)
    if assignment.code_folder is not None:
        copy_code(assignment.code_folder, stage / CODE_FOLDER)
    for column in assignment.columns.packed:
        if column.tokenizer and column.tokenizer != BYTES:
            _keep_tokenizer(column, stage / TOKENIZERS)
    value = {
        "name": spec.name,
        "kind": spec.model.kind,
        "task": spec.data.task,
        "objective": spec.objective_metric,
        "model": spec.model.model_dump(mode="json", by_alias=True),
        "features": [asdict(column) for column in assignment.columns.inputs],
        "types": dict(assignment.columns.types),
        "shares": {name: asdict(share) for name, share in data.shares.items()},
        "transforms": data.encoder.to_json(),
        "shape": asdict(data.shape),
        "target": asdict(assignment.columns.target),
        "read": spec.data.read.model_dump(mode="json") if spec.data.read is not None else None,
        "signature": _signature(assignment, data),
        "digests": assignment.digests,
        "files": {file: sha256_of(stage / file)},
        "versions": versions(),
    }
    write_json(stage / DESCRIPTION, value)


def _keep_tokenizer(column: PackedColumn, folder: Path) -> None:
    kept = folder / column.form.partition(":")[2]
    kept.mkdir(parents=True, exist_ok=True)
    source = local_copy(as_path(column.tokenizer))
    for name in (TOKENIZER_FILE, SETTINGS_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, kept / name)


def _signature(assignment: Assignment, data: OpenData) -> Mapping[str, Any]:
    """What goes in and what comes out, in words."""
    outputs = output_names(data.encoder.target.classes, data.shape.num_outputs)
    inputs = {column.name: column.kind for column in assignment.columns.inputs}
    return {"inputs": inputs, "outputs": outputs}


def load_model(stored_folder: StorePath) -> TrainedModel:
    """The model in a folder; own code is imported from the copy kept with it.

    Raises:
        ArtifactError: a file is missing, changed, or of another format.
    """
    read_json(stored_folder / DESCRIPTION)
    folder = local_copy(stored_folder)
    value = read_json(folder / DESCRIPTION)
    with understood(stored_folder / DESCRIPTION):
        _check_files(value, folder)
        spec: ModelSpec = TypeAdapter(Model).validate_python(value["model"])
        shape = Shape.from_json(value["shape"])
        name, task, kind, objective = (value[k] for k in ("name", "task", "kind", "objective"))
        inputs = tuple(_own_input(column, folder) for column in value["features"])
        encoder = Encoder.from_json(value["transforms"], str(folder / CODE_FOLDER))
        target = _own_target(value, folder) if task == "language" else None
        shares = {name: Share(**share) for name, share in value.get("shares", {}).items()}
        read = ReadSpec.model_validate(value["read"]) if value.get("read") is not None else None
    predictor = load_predictor(spec, shape, folder)
    return TrainedModel(
        name, task, kind, objective, inputs, encoder, predictor, spec, shape, target,
        value.get("types", {}), shares, read,
    )  # fmt: skip


def _check_files(value: Mapping[str, Any], folder: Path) -> None:
    for name, digest in value["files"].items():
        if not (folder / name).exists() or sha256_of(folder / name) != digest:
            raise ArtifactError(f"{folder / name}: is missing or changed since it was trained")
    code = folder / CODE_FOLDER
    if code.exists() and code_digest(code) != value["digests"]["code"]:
        raise ArtifactError(f"{code}: has changed since the model was trained")


def _own_input(value: Mapping[str, Any], folder: Path) -> InputColumn:
    """An input whose tokenizer is the one kept with the model."""
    column = InputColumn.from_json(value)
    if column.kind != "tokens" or column.tokenizer == BYTES:
        return column
    return replace(column, tokenizer=str(folder / TOKENIZERS / column.tokenizer_digest))


def _own_target(value: Mapping[str, Any], folder: Path) -> PackedColumn:
    column = PackedColumn(**value["target"])
    if column.tokenizer == BYTES:
        return column
    return replace(column, tokenizer=str(folder / TOKENIZERS / column.form.partition(":")[2]))


def load_predictor(spec: ModelSpec, shape: Shape, folder: Path) -> Predictor:
    """The predictor whose files lie in `folder`. Each family's library is loaded on demand."""
    if spec.family == "network":
        from heliostat.models.network import WEIGHTS, NetworkPredictor, build_network, load_weights
        from heliostat.models.randomness import Randomness
        from heliostat.parallel.torch_device import torch_device

        module = build_network(spec, shape, Randomness(), folder / CODE_FOLDER)  # type: ignore[arg-type]
        load_weights(module, folder / WEIGHTS)
        device = torch_device(scoring_device())
        return NetworkPredictor(module.to(device), shape, device)
    if spec.family == "boosted":
        with without("sklearn", "xgboost"):
            from heliostat.models.boosted import BoosterPredictor

        return BoosterPredictor.load(folder, shape)
    with without("torch", "skops"):
        from heliostat.models.classic import EstimatorPredictor

    return EstimatorPredictor.load(folder, shape, spec.encoding)
