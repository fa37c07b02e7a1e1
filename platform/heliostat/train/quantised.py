"""The quantised matrices of an XGBoost training: each rank's own rows, with bins that every rank
cuts from the same reference sample.

Rows that trees keep together are laid beside each other: to share them out among nodes is then
easily predicted, and a node's rows are read in turn. Sums of gradients are exact, so that the order
of rows changes no byte of the model.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
LAYING_TREES, LAYING_DEPTH = 3, 6
ROWS_AT_ONCE = 65_536

_Rows = npt.NDArray[np.int64]
_Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Matrices:
    """This rank's rows: those of training with their targets, and those of validation, if any.
    `order` says which of this rank's training rows stands at each place of the matrix.
    """

    train: xgboost.QuantileDMatrix
    validation: xgboost.QuantileDMatrix | None
    rows: _Rows
    target: npt.NDArray[Any]
    order: _Rows | None

    def in_row_order(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values of the matrix's rows, in the order of this rank's training rows."""
        if self.order is None:
            return values
        restored = np.empty_like(values)
        restored[self.order] = values
        return restored


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
        features, order = self._features(mine), None
        # XGBoost's ranks do all of this together, so that none may decide for itself.
        rows_a_rank = len(train) // self._world.size
        if self._lays and rows_a_rank >= LEAST_LAID_ROWS:
            order = self._order(reference, features, num_parts=1 + rows_a_rank // ROWS_AT_ONCE)
            mine = mine[order]
            laid = _Laid(features, order, feature_types(data.shape))
            matrix = self._matrix(laid, reference)
        else:
            matrix = self._matrix(features, reference, **self._types)
        del features
        validation = None
        if len(rows := np.asarray(data.rows("validation"))):
            part = self._own(rows)
            validation = self._matrix(self._features(part), reference, **self._types)
        return Matrices(matrix, validation, mine, data.reader.targets(mine), order)

    def _own(self, rows: _Rows) -> _Rows:
        return rows[rank_slice(len(rows), self._world.rank, self._world.size)]

    def _reference(self, train: _Rows) -> xgboost.QuantileDMatrix:
        """The sample, whose targets only say how rows are laid."""
        hashes = self._data.prepared.hashes(self._seed)[train]
        count = min(REFERENCE_ROWS, len(train))
        sample = np.sort(train[np.argpartition(hashes, count - 1)[:count]])
        features = reference_rows(self._features(sample), self._data.shape)
        target = np.zeros(len(features), np.float32)
        target[:count] = self._data.reader.targets(sample)
        return self._matrix(features, None, label=target, **self._types)

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
        """As XGBoost takes them, read by several threads; own code is called by one at a time."""
        reader, shape = self._data.reader, self._data.shape
        whole = np.empty((len(rows), shape.num_numbers + len(shape.cardinalities)), np.float32)

        def read(start: int) -> None:
            inputs = reader.inputs(rows[start : start + ROWS_AT_ONCE])
            whole[start : start + ROWS_AT_ONCE] = feature_matrix(inputs.numbers, inputs.categories)

        threads = 1 if self._data.encoder.customs else self._threads
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(0, len(rows), ROWS_AT_ONCE)))
        return whole

    @property
    def _types(self) -> dict[str, Any]:
        return {"feature_types": feature_types(self._data.shape), "enable_categorical": True}

    def _matrix(
        self, features: Any, reference: xgboost.QuantileDMatrix | None, **more: Any
    ) -> xgboost.QuantileDMatrix:
        return xgboost.QuantileDMatrix(
            features, ref=reference, max_bin=self._max_bin, nthread=self._threads,
            **{"enable_categorical": True} | more,
        )  # fmt: skip


class _Laid(xgboost.DataIter):  # type: ignore[misc]  # XGBoost has no types
    """Rows in the order they are laid, some at a time: a second matrix would be most of what we
    hold.
    """

    def __init__(self, features: _Features, order: _Rows, types: list[str]) -> None:
        super().__init__()
        self._features, self._order, self._types = features, order, types
        self._start = 0

    def reset(self) -> None:
        """Begin again: XGBoost goes through them several times."""
        self._start = 0

    def next(self, input_data: Any) -> bool:
        """Hand over some rows; whether there were any."""
        part = self._order[self._start : self._start + ROWS_AT_ONCE]
        if self._start and not len(part):
            return False
        self._start += ROWS_AT_ONCE
        input_data(data=self._features.take(part, axis=0), feature_types=self._types)
        return True
