"""Ridge regressions that differ in nothing but their penalty: one pass over the rows, then a small
solve for each.

All that a ridge regression learns from its rows is in the Gram matrix of its centred columns and
target (Hoerl and Kennard, 1970). It is summed in float64, shifted by the means of the first rows
so that no digits are lost to cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge

from heliostat.models.classic import EstimatorPredictor, design_matrix, design_width
from heliostat.spec.job import JobSpec
from heliostat.spec.model import LinearModel
from heliostat.train.artifact import save_model
from heliostat.train.assignment import Assignment, OpenData, open_data
from heliostat.train.classic import train_classic
from heliostat.train.events import Event, Finished, Validated
from heliostat.train.scoring import evaluated_metrics, side_metrics
from heliostat.train.stopping import better

ROWS_AT_ONCE = 16_384
MOST_COLUMNS = 4_096  # of a Gram matrix: 128 MiB
Floats = npt.NDArray[np.float64]


def train_ridges(assignments: Sequence[Assignment]) -> Iterator[tuple[int, Event]]:
    """Fit all, yielding (place, event). Only the best one's model is saved."""
    data = open_data(assignments[0])
    spec = assignments[0].spec
    if design_width(data.shape, spec.model.encoding) > MOST_COLUMNS:
        for place, assignment in enumerate(assignments):
            yield from ((place, event) for event in train_classic(assignment, data))
        return
    models = [a.spec.model for a in assignments]
    penalties = [model.alpha for model in models if isinstance(model, LinearModel)]
    moments = _moments(data, spec)
    fits = [moments.solved(penalty) for penalty in penalties]
    ends = list(_scored(assignments, data, fits))
    best = 0
    for place, end in enumerate(ends):
        if better(end.score, ends[best].score, spec.objective_goal):
            best = place
    chosen = assignments[best]
    estimator = _estimator(fits[best], penalties[best])
    save_model(chosen, data, EstimatorPredictor(estimator, data.shape, spec.model.encoding))
    for place, end in enumerate(ends):
        names = evaluated_metrics(assignments[place].spec)
        chosen_metrics = {name: end.metrics["validation"][name] for name in names}
        yield place, Validated(1, 1.0, 1, chosen_metrics, end.score, True)
        yield place, end


@dataclass(frozen=True)
class _Fit:
    coefficients: Floats
    intercept: float


@dataclass(frozen=True)
class _Moments:
    """Weighted sums over the training rows, of columns and target less their means; without an
    intercept, as they are, and the means are 0.
    """

    gram: Floats
    product: Floats
    column_means: Floats
    target_mean: float

    def solved(self, penalty: float) -> _Fit:
        """The coefficients that make squares + penalty x squared length least."""
        matrix = self.gram + penalty * np.eye(len(self.gram))
        coefficients: Floats = np.asarray(np.linalg.solve(matrix, self.product), np.float64)
        return _Fit(coefficients, self.target_mean - float(self.column_means @ coefficients))


def _moments(data: OpenData, spec: JobSpec) -> _Moments:
    rows = np.asarray(data.rows("train"))
    assert isinstance(spec.model, LinearModel)
    first = _columns_and_target(data, spec, rows[:ROWS_AT_ONCE]).mean(0)
    shift = first if spec.model.fit_intercept else np.zeros_like(first)
    gram, sums, total = np.zeros((len(shift), len(shift))), np.zeros(len(shift)), 0.0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        values = _columns_and_target(data, spec, part) - shift
        weights = data.reader.weights(part)
        weighted = values * weights[:, None] if data.reader.is_weighted else values
        gram += weighted.T @ values
        sums += weighted.sum(0)
        total += float(weights.sum())
    means = np.zeros_like(sums)
    if spec.model.fit_intercept:
        gram -= np.outer(sums, sums / total)
        means = shift + sums / total
    return _Moments(gram[:-1, :-1], gram[:-1, -1], means[:-1], float(means[-1]))


def _columns_and_target(data: OpenData, spec: JobSpec, rows: npt.NDArray[np.int64]) -> Floats:
    target = data.reader.targets(rows).astype(np.float64)
    return np.concatenate([_design(data, spec, rows), target[:, None]], 1)


def _design(data: OpenData, spec: JobSpec, rows: npt.NDArray[np.int64]) -> Floats:
    inputs = data.reader.inputs(rows)
    cardinalities = data.shape.cardinalities
    matrix = design_matrix(inputs.numbers, inputs.categories, cardinalities, spec.model.encoding)
    return matrix.astype(np.float64)


def _scored(
    assignments: Sequence[Assignment], data: OpenData, fits: Sequence[_Fit]
) -> Iterator[Finished]:
    """The end of each, from one pass over the validation rows."""
    rows = np.asarray(data.rows("validation"))
    coefficients = np.stack([fit.coefficients for fit in fits], 1)
    intercepts = np.array([fit.intercept for fit in fits])
    parts = [
        _design(data, assignments[0].spec, rows[start : start + ROWS_AT_ONCE]) @ coefficients
        for start in range(0, len(rows), ROWS_AT_ONCE)
    ]
    scores = np.concatenate(parts) + intercepts
    for place, assignment in enumerate(assignments):
        spec = assignment.spec
        metrics, details = side_metrics(spec, data, "validation", scores[:, place])
        score = metrics[spec.objective_metric]
        yield Finished(1, {"validation": metrics}, score, {"validation": details}, progress=1)


def _estimator(fit: _Fit, penalty: float) -> Ridge:
    """The fit as scikit-learn holds it."""
    estimator = Ridge(alpha=penalty)
    estimator.coef_, estimator.intercept_ = fit.coefficients, fit.intercept
    estimator.n_features_in_ = len(fit.coefficients)
    return estimator
