"""Models by scikit-learn: built from their spec, kept by skops (no pickle)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from heliostat.errors import ArtifactError
from heliostat.models.predictor import Scores, Shape
from heliostat.spec.model import (
    ForestModel,
    LinearModel,
    ModelSpec,
    NeighborsModel,
    SupportVectorModel,
    TreeModel,
)

ESTIMATOR = "estimator.skops"
MISSING, FIRST_VALUE = 1, 2
# What skops may build besides what it trusts by itself: scikit-learn's own classes, by name.
TRUSTED = frozenset(
    """
    sklearn.tree._tree.Tree
    sklearn.neighbors._kd_tree.KDTree sklearn.neighbors._kd_tree.KDTree64
    sklearn.neighbors._kd_tree.KDTree32
    sklearn.neighbors._ball_tree.BallTree sklearn.neighbors._ball_tree.BallTree64
    sklearn.neighbors._ball_tree.BallTree32
    sklearn.metrics._dist_metrics.EuclideanDistance64
    sklearn.metrics._dist_metrics.EuclideanDistance32
    sklearn.metrics._dist_metrics.ManhattanDistance64
    sklearn.metrics._dist_metrics.MinkowskiDistance64
    sklearn.calibration._CalibratedClassifier sklearn.calibration._SigmoidCalibration
    """.split()
)


def build_estimator(spec: ModelSpec, task: str, seed: int, threads: int) -> Any:
    """The unfitted scikit-learn estimator of a spec."""
    regression = task == "regression"
    if isinstance(spec, LinearModel):
        return _linear_regression(spec, seed) if regression else _logistic(spec, seed)
    own = spec.model_dump(exclude={"kind"})
    if isinstance(spec, TreeModel):
        tree = DecisionTreeRegressor if regression else DecisionTreeClassifier
        return tree(random_state=seed % 2**32, **own)
    if isinstance(spec, ForestModel):
        forest = RandomForestRegressor if regression else RandomForestClassifier
        return forest(random_state=seed % 2**32, n_jobs=threads, **own)
    if isinstance(spec, NeighborsModel):
        neighbors = KNeighborsRegressor if regression else KNeighborsClassifier
        return neighbors(n_jobs=threads, **own)
    assert isinstance(spec, SupportVectorModel)
    epsilon = own.pop("epsilon")
    if regression:
        return SVR(epsilon=epsilon, **own)
    return CalibratedClassifierCV(SVC(random_state=seed % 2**32, **own), ensemble=False)


def _linear_regression(spec: LinearModel, seed: int) -> Any:
    intercept = spec.fit_intercept
    if spec.penalty == "none":
        return LinearRegression(fit_intercept=intercept)
    shared = {"alpha": spec.alpha, "fit_intercept": intercept, "tol": spec.tol}
    if spec.penalty == "l2":
        return Ridge(random_state=seed % 2**32, max_iter=spec.max_iter, **shared)
    shared |= {"max_iter": spec.max_iter, "random_state": seed % 2**32}
    return Lasso(**shared) if spec.penalty == "l1" else ElasticNet(l1_ratio=spec.l1_ratio, **shared)


def _logistic(spec: LinearModel, seed: int) -> Any:
    ratio = {"none": 0.0, "l2": 0.0, "l1": 1.0, "elasticnet": spec.l1_ratio}[spec.penalty]
    return LogisticRegression(
        C=np.inf if spec.penalty == "none" else spec.C,
        l1_ratio=ratio,
        solver="saga" if ratio else "lbfgs",
        fit_intercept=spec.fit_intercept,
        max_iter=spec.max_iter,
        tol=spec.tol,
        random_state=seed % 2**32,
    )


def design_matrix(
    numbers: npt.NDArray[np.float32],
    categories: npt.NDArray[np.int32],
    cardinalities: Sequence[int],
    encoding: str,
) -> npt.NDArray[np.float32]:
    """[rows, width] float32: category codes as they are, or one column a value.

    One-hot, a missing value has a column of its own and an unknown one is all zeros.
    """
    if encoding == "codes":
        return np.concatenate([numbers, categories.astype(np.float32)], 1)
    parts = [numbers]
    for i, cardinality in enumerate(cardinalities):
        codes = np.arange(MISSING, cardinality, dtype=np.int32)
        parts.append((categories[:, i : i + 1] == codes).astype(np.float32))
    return np.concatenate(parts, 1)


def design_width(shape: Shape, encoding: str) -> int:
    """How many columns `design_matrix` gives."""
    if encoding == "codes":
        return shape.num_numbers + len(shape.cardinalities)
    return shape.num_numbers + sum(cardinality - MISSING for cardinality in shape.cardinalities)


class EstimatorPredictor:
    """A fitted scikit-learn estimator."""

    def __init__(self, estimator: Any, shape: Shape, encoding: str) -> None:
        self.estimator, self.shape, self.encoding = estimator, shape, encoding

    @classmethod
    def load(cls, folder: Path, shape: Shape, encoding: str) -> EstimatorPredictor:
        """The estimator that `save` wrote; nothing outside scikit-learn is ever built.

        Raises:
            ArtifactError: the file holds a type that is not on our list.
        """
        path = folder / ESTIMATOR
        foreign = set(skops.io.get_untrusted_types(file=path)) - TRUSTED
        if foreign:
            raise ArtifactError(f"{path}: holds types that are not trusted: {sorted(foreign)}")
        return cls(skops.io.load(path, trusted=sorted(TRUSTED)), shape, encoding)

    def scores(self, numbers: npt.NDArray[Any], categories: npt.NDArray[Any]) -> Scores:
        """See `Predictor`."""
        if len(numbers) == 0:
            return np.empty((0,) if self.shape.num_outputs == 1 else (0, self.shape.num_outputs))
        matrix = design_matrix(numbers, categories, self.shape.cardinalities, self.encoding)
        if self.shape.task == "regression":
            return np.asarray(self.estimator.predict(matrix), np.float64)
        probabilities = np.asarray(self.estimator.predict_proba(matrix), np.float64)
        return probabilities[:, 1] if self.shape.task == "binary" else probabilities

    def save(self, folder: Path) -> str:
        """See `Predictor`."""
        skops.io.dump(self.estimator, folder / ESTIMATOR)
        return ESTIMATOR
