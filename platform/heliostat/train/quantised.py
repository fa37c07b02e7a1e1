"""The quantised matrices of an XGBoost training: each rank's own rows, with bins that every rank
cuts from the same reference sample.

Rows that trees keep together are laid beside each other: to share them out among nodes is then
easily predicted, and a node's rows are read in turn. Sums of gradients are exact, so that the order
of rows changes no byte of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from heliostat.data.reader import rank_slice
from heliostat.models.boosted import feature_matrix, feature_types, reference_rows
from heliostat.parallel.device import training_device
from heliostat.parallel.world import World
from heliostat.train.assignment import Assignment, OpenData

REFERENCE_ROWS = 200_000
LEAST_LAID_ROWS = 65_536  # fewer fit into a core's cache, in whatever order
LEAST_LAID_ROUNDS = 100  # laying costs what it gains in about fifty
LAYING_TREES, LAYING_DEPTH = 5, 6
ROWS_AT_ONCE = 65_536

_Rows = npt.NDArray[np.int64]
_Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Matrices:
    """This rank's rows: those of training with their targets, and those of validation, if any."""

    train: xgboost.QuantileDMatrix
    validation: xgboost.QuantileDMatrix | None
    rows: _Rows
    target: npt.NDArray[Any]


def quantised(
    assignment: Assignment, data: OpenData, world: World, max_bin: int, threads: int
) -> Matrices:
    """Those of the training before, if it cut the same rows as finely."""
    key = ("xgboost", max_bin, world.rank, world.size)
    if key not in data.derived:
        data.derived.clear()  # one at a time: they are most of what a trial holds
        data.derived[key] = _Builder(assignment, data, world, max_bin, threads).build()
    kept: Matrices = data.derived[key]
    return kept


class _Builder:
    def __init__(
        self, assignment: Assignment, data: OpenData, world: World, max_bin: int, threads: int
    ) -> None:
        self._seed, self._data, self._world = assignment.spec.seed, data, world
        is_shared = not assignment.final  # by the trials of a sweep, or folds
        self._lays = is_shared or assignment.spec.length >= LEAST_LAID_ROUNDS
        if training_device(assignment.spec.scale.resources.gpu) == "cuda":
            self._lays = False  # which a GPU gains nothing from
        self._max_bin, self._threads = max_bin, threads

    def build(self) -> Matrices:
        data = self._data
        train = np.asarray(data.rows("train"))
        reference = self._reference(train)
        mine = self._own(train)
        features = self._features(mine)
        # XGBoost's ranks do all of this together, so that none may decide for itself.
        rows_a_rank = len(train) // self._world.size
        if self._lays and rows_a_rank >= LEAST_LAID_ROWS:
            order = self._order(reference, features, num_parts=1 + rows_a_rank // ROWS_AT_ONCE)
            mine = mine[order]
            for column in features.T:  # a second matrix would be most of what we hold
                column[:] = column[order]
        target = data.reader.targets(mine)
        matrix = self._matrix(features, target, reference)
        validation = None
        if len(rows := np.asarray(data.rows("validation"))):
            part = self._own(rows)
            validation = self._matrix(self._features(part), data.reader.targets(part), reference)
        return Matrices(matrix, validation, mine, target)

    def _own(self, rows: _Rows) -> _Rows:
        return rows[rank_slice(len(rows), self._world.rank, self._world.size)]

    def _reference(self, train: _Rows) -> xgboost.QuantileDMatrix:
        """The sample, whose targets only say how rows are laid."""
        hashes = self._data.prepared.hashes(self._seed)[train]
        count = min(REFERENCE_ROWS, len(train))
        sample = np.sort(train[np.argsort(hashes, kind="stable")[:count]])
        features = reference_rows(self._features(sample), self._data.shape)
        target = np.zeros(len(features), np.float32)
        target[:count] = self._data.reader.targets(sample)
        return self._matrix(features, target, None)

    def _order(
        self, reference: xgboost.QuantileDMatrix, features: _Features, num_parts: int
    ) -> _Rows:
        """By the leaves that a few trees put rows in, the first tree's first."""
        settings = {"max_depth": LAYING_DEPTH, "nthread": self._threads}
        booster = xgboost.Booster({"objective": "reg:squarederror", **settings}, [reference])
        for i in range(LAYING_TREES):
            booster.update(reference, i)
        leaves = [
            booster.predict(
                xgboost.DMatrix(part, nthread=self._threads, **self._types), pred_leaf=True
            ).astype(np.int16)  # which is sorted by its digits
            for part in np.array_split(features, num_parts)
        ]
        return np.lexsort(np.concatenate(leaves).T[::-1])

    def _features(self, rows: _Rows) -> _Features:
        inputs = self._data.reader.inputs(rows)
        return feature_matrix(inputs.numbers, inputs.categories)

    @property
    def _types(self) -> dict[str, Any]:
        return {"feature_types": feature_types(self._data.shape), "enable_categorical": True}

    def _matrix(
        self, features: _Features, target: Any, reference: xgboost.QuantileDMatrix | None
    ) -> xgboost.QuantileDMatrix:
        return xgboost.QuantileDMatrix(
            features,
            target,
            ref=reference,
            max_bin=self._max_bin,
            nthread=self._threads,
            **self._types,
        )
