"""The parts of the contract that are not built yet: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator

from heliostat.errors import Problem
from heliostat.spec.data import AudioFeature, ImageFeature
from heliostat.spec.load import Job
from heliostat.spec.scale import ElasticWorkers

NOT_YET = "not available yet"


def unavailable_parts(job: Job) -> list[Problem]:
    """A problem for each key of the job that asks for something not built yet."""
    return [job.problem(key, f"{what} {NOT_YET}") for key, what in _parts(job)]


def _parts(job: Job) -> Iterator[tuple[str, str]]:
    yield from _data_parts(job)
    yield from _model_parts(job)
    yield from _scale_parts(job)
    yield from _other_parts(job)


def _data_parts(job: Job) -> Iterator[tuple[str, str]]:
    data = job.spec.data
    if data.task == "ranking":
        yield "data.task", f"task `{data.task}` is"
    for name, feature in (data.features or {}).items():
        if isinstance(feature, (ImageFeature, AudioFeature)):
            yield f"data.features.{name}", f"features of type `{feature.type}` are"


def _model_parts(job: Job) -> Iterator[tuple[str, str]]:
    model = job.spec.model
    if model.kind == "multimodal":
        yield "model.kind", f"a model of kind `{model.kind}` is"
    if getattr(model, "lora", None):
        yield "model.lora", "low-rank adaptation is"


def _scale_parts(job: Job) -> Iterator[tuple[str, str]]:
    scale = job.spec.scale
    elastic = isinstance(scale.workers, ElasticWorkers)
    if elastic and job.spec.tune is not None:
        yield "scale.workers", "elastic workers in a trial are"


def _other_parts(job: Job) -> Iterator[tuple[str, str]]:
    spec = job.spec
    for key in ("mlflow", "register"):
        if getattr(spec.track, "register_" if key == "register" else key) is not None:
            yield f"track.{key}", "tracking is"
    if spec.code is not None and spec.code.requirements is not None:
        yield "code.requirements", "installing requirements is"
