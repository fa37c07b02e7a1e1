"""Which trials can be trained together, and what keeps the others from it: networks as one stacked
model, ridge regressions from one Gram matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heliostat.spec.identity import digest_of, learned_part
from heliostat.spec.job import JobSpec
from heliostat.spec.model import LinearModel, MlpModel

OWN_SETTINGS = ("learning_rate", "weight_decay", "momentum")  # of the optimizer: each trial's own
OWN_KEYS = ("clip_norm", "schedule", "early_stopping")
MOST_RIDGES = 1_024


@dataclass(frozen=True)
class Company:
    """Trials with the same `key` may be trained together, up to `most` of them."""

    key: object
    most: int


def ridge_key(spec: JobSpec) -> str | None:
    """Equal for ridge regressions that differ in their penalty alone; None for other models."""
    model = spec.model
    if (
        not isinstance(model, LinearModel)
        or model.penalty != "l2"
        or spec.data.task != "regression"
    ):
        return None
    if spec.data.ingest == "stream":
        return None
    value: dict[str, Any] = learned_part(spec)
    del value["model"]["alpha"]
    return digest_of(value)


def fuse_key(spec: JobSpec) -> str | None:
    """Equal for trials that may share a stacked model; None for one that trains alone."""
    if why_not_fused(spec) is not None:
        return None
    value: dict[str, Any] = learned_part(spec)
    del value["seed"]
    model, train = value["model"], value["train"]
    model["dropout"] = model["dropout"] > 0
    for key in OWN_KEYS:
        del train[key]
    for key in OWN_SETTINGS:
        del train["optimizer"][key]
    return digest_of(value)


def why_not_fused(spec: JobSpec) -> str | None:
    """What keeps a trial out of a stacked model; None: nothing."""
    model = spec.model
    if not isinstance(model, MlpModel):
        return f"a model of kind `{model.kind}` has no stacked form; only `mlp` has"
    reasons = {
        "`norm: batch` keeps statistics that go by the batch": model.norm == "batch",
        "`init_from` begins from weights that are loaded": model.init_from is not None,
        "`freeze` leaves weights out": bool(model.freeze),
        f"`precision: {spec.train.precision}`": spec.train.precision != "float32",
        "`compile: true`": spec.train.compile,
        "a `micro_batch_size`": spec.scale.micro_batch_size != "auto",
        "several workers a trial": spec.scale.num_workers > 1,
        "`ingest: stream`": spec.data.ingest == "stream",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
