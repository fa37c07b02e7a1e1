"""The columns that `predict` adds to a source's own."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.catalog.types import type_of
from heliostat.data.encode import TargetTransform
from heliostat.train.metrics import predicted_classes

PREDICTION, PROBABILITY = "prediction", "probability"


def output_names(classes: Sequence[str], num_outputs: int) -> list[str]:
    """The names, of which no two are one for readers that do not tell case apart: a class that
    takes the name of one before it gets a number.
    """
    if not classes:
        return [PREDICTION]
    if num_outputs == 1:
        return [PREDICTION, PROBABILITY]
    names, taken = [PREDICTION], {PREDICTION}
    for class_ in classes:
        name, number = f"{PROBABILITY}_{class_}", 1
        while _folded(name) in taken:
            number += 1
            name = f"{PROBABILITY}_{class_}_{number}"
        names.append(name)
        taken.add(_folded(name))
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def output_columns(target: TargetTransform, scores: npt.NDArray[np.float64]) -> dict[str, pa.Array]:
    """`prediction` in the target's own type, and for classes their probabilities; null where the
    model makes no prediction.
    """
    missing = no_prediction(scores)
    if not target.classes:
        return {PREDICTION: pa.array(scores, mask=missing)}
    classes = pa.array(list(target.classes), pa.string())
    codes = pa.array(predicted_classes(np.nan_to_num(scores)), mask=missing)
    type_ = type_of(target.source_type) or pa.string()
    probabilities = scores[:, None] if scores.ndim == 1 else scores
    columns = [classes.take(codes).cast(type_)]
    columns += [pa.array(column, mask=missing) for column in probabilities.T]
    names = output_names(target.classes, probabilities.shape[1])
    return dict(zip(names, columns, strict=True))


def no_prediction(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows the model makes no prediction for."""
    width = int(np.prod(scores.shape[1:], dtype=np.int64))
    return np.asarray(np.isnan(scores.reshape(len(scores), width)).any(1))
