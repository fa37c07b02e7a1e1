"""Metrics: our few lines of NumPy against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from heliostat.spec.metrics import metrics_of
from heliostat.train.metrics import compute_metrics, confusion

scores = st.lists(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.500001, 0.9, 1.0]), min_size=2, max_size=60
)


@settings(deadline=None)
@given(scores, st.integers(0, 2**31))
def test_two_classes(values, seed):
    p = np.array(values)
    y = np.random.default_rng(seed).integers(0, 2, len(p))
    ours = compute_metrics("binary", metrics_of("binary"), y, p)
    predicted = p > 0.5
    labels = [0, 1]
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    for name in ("precision", "recall", "f1"):
        theirs = getattr(sk, f"{name}_score")(y, predicted, zero_division=0)
        assert ours[name] == pytest.approx(theirs if y.any() else math.nan, nan_ok=True)
    weighted = sk.f1_score(y, predicted, average="weighted", zero_division=0, labels=labels)
    assert ours["f1_weighted"] == pytest.approx(weighted)
    assert ours["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=labels), rel=1e-6)
    if len(np.unique(y)) == 2:
        assert ours["auc"] == pytest.approx(sk.roc_auc_score(y, p))
    else:
        assert math.isnan(ours["auc"])
    assert np.array_equal(confusion(y, p), sk.confusion_matrix(y, predicted, labels=labels))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 6), st.integers(20, 80))
def test_many_classes(seed, classes, n):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n).round(3) + 1e-4
    p /= p.sum(1, keepdims=True)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    ours = compute_metrics("multiclass", metrics_of("multiclass"), y, p)
    predicted = p.argmax(1)
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert ours["log_loss"] == pytest.approx(sk.log_loss(y, p))
    for name in ("precision", "recall", "f1"):
        theirs = getattr(sk, f"{name}_score")(y, predicted, average="macro", zero_division=0)
        assert ours[name] == pytest.approx(theirs)
    assert ours["f1_macro"] == ours["f1"]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 100))
def test_regression(seed, n):
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=n), rng.normal(size=n)
    ours = compute_metrics("regression", metrics_of("regression"), y, p)
    assert ours["mse"] == pytest.approx(sk.mean_squared_error(y, p))
    assert ours["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(y, p))
    assert ours["r2"] == pytest.approx(sk.r2_score(y, p))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.sampled_from(["binary", "multiclass", "reg"]))
def test_a_weight_is_a_number_of_repetitions(seed, n, task):
    """A row of weight 3 counts as three rows of weight 1, and one of weight 0 not at all."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, n)
    if task == "reg":
        task, y, p = "regression", rng.normal(size=n), rng.normal(size=n)
    elif task == "binary":
        y, p = rng.integers(0, 2, n), rng.random(n).round(1)
    else:
        y, p = rng.integers(0, 3, n), rng.dirichlet(np.ones(3), n)
    weighted = compute_metrics(task, metrics_of(task), y, p, weights.astype(float))
    again = np.repeat(np.arange(n), weights)
    repeated = compute_metrics(task, metrics_of(task), y[again], p[again])
    assert weighted == pytest.approx(repeated, nan_ok=True)


def test_scores_that_are_not_numbers_give_no_metric():
    found = compute_metrics(
        "binary", ["auc", "accuracy"], np.array([0, 1]), np.array([0.1, np.nan])
    )
    assert all(math.isnan(value) for value in found.values())


def test_a_constant_target_has_no_r2_whatever_its_mean_is_rounded_to():
    y = np.full(49, 0.1)  # whose mean is another number
    assert math.isnan(compute_metrics("regression", ["r2"], y, y + 1)["r2"])
