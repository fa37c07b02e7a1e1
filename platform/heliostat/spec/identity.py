"""Digests: what makes two jobs, trials or data sets the same one.

All are SHA-256 over canonical JSON, cut to 128 bits and written in hex.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from heliostat.spec.job import JobSpec

DIGEST_LENGTH = 32


def digest_of(value: Any) -> str:
    """The digest of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def learned_part(spec: JobSpec) -> dict[str, Any]:
    """The part of a job that decides what is learned: `data`, `model`, `train` and the seed.

    The source's location and how it is read are left out, since its digest stands for them; the
    objective is in only where it decides which weights are kept.
    """
    value = spec.model_dump(mode="json", by_alias=True, include={"data", "model", "train", "seed"})
    del value["data"]["source"], value["data"]["read"]
    if spec.train.early_stopping is not None:
        value["objective"] = [spec.objective_metric, spec.objective_goal]
    return value


def trial_id(spec: JobSpec, data_digest: str, code_digest: str) -> str:
    """The identity of one training: hash(learned part, data digest, code digest)."""
    return digest_of([learned_part(spec), data_digest, code_digest])[:16]
