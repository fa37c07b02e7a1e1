"""Scoring over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from heliostat.train import scoring


class Counting:
    """Scores a row by its number, and counts how many it is asked for."""

    is_joint = True

    def __init__(self) -> None:
        self.num_asked = 0

    def scores(self, numbers, categories):
        self.num_asked += len(numbers)
        return numbers[:, 0].astype(float)

    def save(self, folder):
        raise NotImplementedError


@dataclass(frozen=True)
class RankOf:
    """A rank whose sums are its own part."""

    rank: int
    size: int

    def sum(self, values):
        return values


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 9, 65_541])
def test_ranks_that_score_together_ask_for_as_many_rows(num_rows, monkeypatch):
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 4)
    rows = np.arange(num_rows)
    read = SimpleNamespace(
        inputs=lambda names: SimpleNamespace(numbers=names[:, None], categories=names[:, None])
    )
    target = SimpleNamespace(classes=["no", "yes"])
    data = SimpleNamespace(
        rows=lambda side: rows, reader=read, encoder=SimpleNamespace(target=target)
    )
    predictors = [Counting() for _ in range(4)]
    parts = [
        scoring.side_scores(data, "test", predictor, RankOf(rank, 4))
        for rank, predictor in enumerate(predictors)
    ]
    assert {predictor.num_asked for predictor in predictors} == {-(-num_rows // 4)}
    np.testing.assert_array_equal(sum(parts), rows)
