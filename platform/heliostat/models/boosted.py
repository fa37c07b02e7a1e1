"""XGBoost: parameters, the matrix of its inputs, and a predictor."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from heliostat.models.predictor import Scores, Shape
from heliostat.parallel.device import Device, no_gpu, scoring_device
from heliostat.spec.model import XGBoostModel

_Floats = npt.NDArray[Any]

BOOSTER = "booster.ubj"
ROWS_AT_ONCE = 16_384  # of gradients: what a row passes through stays in a core's cache
FIRST_VALUE = 2  # codes below are "unknown" and "missing", which XGBoost treats alike
OBJECTIVES = {
    "regression": "reg:squarederror",
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
}


def parameters(
    spec: XGBoostModel, shape: Shape, base_score: float, threads: int, device: Device
) -> dict[str, Any]:
    """XGBoost's own parameters. What acts on gradients is not among them:
    those are ours, and so is the drawing of rows.
    """
    own = spec.model_dump(exclude={"kind", "subsample", "scale_pos_weight"})
    own |= {
        "objective": OBJECTIVES[shape.task],
        "base_score": base_score,
        "tree_method": "hist",
        "device": device,
        "nthread": threads,
        "disable_default_eval_metric": True,
    }
    if shape.num_outputs > 1:
        own["num_class"] = shape.num_outputs
    return own


def check_device(device: Device) -> None:
    """Without a GPU, XGBoost would go on with the CPU after a warning.

    Raises:
        UserError: it cannot use the device.
    """
    if device == "cpu":
        return
    if not xgboost.build_info()["USE_CUDA"]:
        found = f"XGBoost {xgboost.__version__} is built without CUDA"
        raise no_gpu(found, "install the package `xgboost` in place of `xgboost-cpu`")
    with warnings.catch_warnings(action="ignore"):
        config = json.loads(xgboost.Booster({"device": device, "num_feature": 1}).save_config())
    if config["learner"]["generic_param"]["device"] == "cpu":
        raise no_gpu("XGBoost sees none", "install its driver")


def base_score(task: str, targets: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> float:
    """The prediction before the first tree, from all training rows: fixed, so that it cannot
    depend on how they are shared among workers.
    """
    if task == "multiclass":
        return 0.5
    total = weights.sum()
    mean = float((targets * weights).sum() / total) if total else 0.0
    return min(max(mean, 1e-6), 1 - 1e-6) if task == "binary" else mean


def feature_matrix(
    numbers: npt.NDArray[np.float32], categories: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """[rows, numbers + categories] float32; unknown and missing categories are NaN."""
    if not categories.shape[1]:
        return numbers
    codes = categories.astype(np.float32) - FIRST_VALUE
    codes[categories < FIRST_VALUE] = np.nan
    return np.concatenate([numbers, codes], 1)


def feature_types(shape: Shape) -> list[str]:
    """XGBoost's word for each column: q a quantity, c a category."""
    return ["q"] * shape.num_numbers + ["c"] * len(shape.cardinalities)


def reference_rows(sample: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """`sample` and rows that name every category code: bins are cut from this matrix, and a
    code it lacks would be out of range.
    """
    most = max((c - FIRST_VALUE for c in shape.cardinalities), default=0)
    rows = np.full((most, sample.shape[1]), np.nan, np.float32)
    for i, cardinality in enumerate(shape.cardinalities, shape.num_numbers):
        if cardinality > FIRST_VALUE:
            rows[:, i] = np.minimum(np.arange(most), cardinality - FIRST_VALUE - 1)
    return np.concatenate([sample, rows])


def quantum_of(
    task: str, targets: npt.NDArray[Any], weights: npt.NDArray[np.float64], base: float
) -> float:
    """The grid that gradients are rounded to: 2^-24 of the largest there can be at the start,
    which is what float32 resolves. Sums of up to 2^28 such numbers are exact in float64, so
    they come out the same in any order, on any number of workers.
    """
    largest = float(np.abs(targets - base).max()) if task == "regression" else 1.0
    largest *= float(weights.max())
    return 2.0 ** (np.ceil(np.log2(max(largest, 1e-30))) - 24)


class Gradients:
    """First and second derivatives of the loss by row (and class), as multiples of `quantum`:
    XGBoost's own formulas for squared error, logistic and softmax loss, times the rows' weights.
    They are computed in each round for all rows; what stays the same is made once. Probabilities
    are float32, as XGBoost's own; differences of large targets would lose too much.
    """

    def __init__(
        self,
        task: str,
        targets: npt.NDArray[Any],
        weights: npt.NDArray[np.float64],
        quantum: float,
    ) -> None:
        self._task, self._quantum = task, np.float32(quantum)
        self._type = np.dtype(np.float64 if task == "regression" else np.float32)
        self._targets = targets if task == "multiclass" else targets.astype(self._type)
        # Exact, as it is a power of two.
        self._weights = (weights / quantum).astype(self._type)
        self._least = (weights > 0).astype(self._type)  # XGBoost divides by second derivatives

    def __call__(
        self, margins: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Those at `margins`, [rows] or [rows, classes]."""
        first, second = np.empty(margins.shape, np.float32), np.empty(margins.shape, np.float32)
        for start in range(0, len(margins), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            some = margins[rows].T.astype(self._type, order="C")
            with np.errstate(over="ignore"):  # 1 / (1 + infinity) is the 0 that it should be
                one, two = _derivatives(self._task, some, self._targets[rows])
            for part in (one, two):
                part *= self._weights[rows]
                np.rint(part, out=part)
            np.maximum(two, self._least[rows], out=two)
            for part, whole in ((one, first), (two, second)):
                np.multiply(part, self._quantum, out=whole[rows].T, casting="same_kind")
        return first, second


def _derivatives(task: str, margins: _Floats, targets: npt.NDArray[Any]) -> tuple[_Floats, _Floats]:
    """Of the loss, by the margins: [rows], or [classes, rows]."""
    if task == "regression":
        return margins - targets, np.ones_like(margins)
    if task == "binary":
        probability = _logistic(margins)
        return probability - targets, _spread(probability)
    probability = np.exp(margins - margins.max(0))
    probability /= probability.sum(0)
    second = 2 * _spread(probability)
    probability -= np.arange(len(margins))[:, None] == targets
    return probability, second


def _logistic(margins: _Floats) -> _Floats:
    """1 / (1 + exp(-margins)), in their place."""
    np.negative(margins, out=margins)
    np.exp(margins, out=margins)
    margins += 1
    return np.divide(1, margins, out=margins)


def _spread(probability: _Floats) -> _Floats:
    spread = 1 - probability
    spread *= probability
    return spread


class BoosterPredictor:
    """A trained booster, that scores on `device`."""

    def __init__(self, booster: xgboost.Booster, shape: Shape, device: Device) -> None:
        self.booster, self.shape, self._device = booster, shape, device

    @classmethod
    def load(cls, folder: Path, shape: Shape) -> BoosterPredictor:
        """The booster that `save` wrote."""
        device = scoring_device()
        check_device(device)
        booster = xgboost.Booster({"device": device}, model_file=str(folder / BOOSTER))
        return cls(booster, shape, device)

    def scores(self, numbers: npt.NDArray[Any], categories: npt.NDArray[Any]) -> Scores:
        """See `Predictor`."""
        if len(numbers) == 0:
            return np.empty((0,) if self.shape.num_outputs == 1 else (0, self.shape.num_outputs))
        features = feature_matrix(numbers, categories)
        if self._device == "cpu":
            scores = self.booster.inplace_predict(features, validate_features=False)
        else:  # which takes rows of the host as a matrix only
            types = feature_types(self.shape)
            matrix = xgboost.DMatrix(features, feature_types=types, enable_categorical=True)
            scores = self.booster.predict(matrix)
        return scores.astype(np.float64)

    def save(self, folder: Path) -> str:
        """See `Predictor`."""
        (folder / BOOSTER).write_bytes(self.booster.save_raw("ubj"))
        return BOOSTER
