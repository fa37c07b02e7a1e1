"""Which device computes, and what is said where there is none."""

from __future__ import annotations

import pytest
import xgboost

from heliostat.errors import UserError
from heliostat.models import boosted
from heliostat.parallel.device import VARIABLE, scoring_device, training_device


@pytest.mark.parametrize(
    ("wish", "gpus", "training", "scoring"),
    [
        ("", 0, "cpu", "cpu"), ("", 0.5, "cuda", "cpu"), ("cpu", 1, "cpu", "cpu"),
        ("cuda", 1, "cuda", "cuda"), ("cuda", 0, "cpu", "cuda"),
    ],
)  # fmt: skip
def test_the_job_asks_for_a_gpu_and_the_variable_decides(
    wish, gpus, training, scoring, monkeypatch
):
    monkeypatch.setenv(VARIABLE, wish)
    assert (training_device(gpus), scoring_device()) == (training, scoring)


def test_another_device_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tpu")
    for ask in (scoring_device, lambda: training_device(1)):
        with pytest.raises(UserError, match="HELIOSTAT_DEVICE: `tpu` is no device"):
            ask()


@pytest.mark.parametrize("has_cuda", [False, True])
def test_xgboost_without_a_gpu_is_refused_with_what_to_install(has_cuda, monkeypatch):
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": has_cuda})
    boosted.check_device("cpu")
    if has_cuda and xgboost_sees_a_gpu():
        pytest.skip("XGBoost sees a GPU")
    remedy = "sees none" if has_cuda else "install the package `xgboost` in place of `xgboost-cpu`"
    with pytest.raises(UserError, match=remedy):
        boosted.check_device("cuda")


@pytest.mark.parametrize(("model", "train"), [("xgboost", "rounds: 2"), ("mlp", "steps: 2")])
def test_a_job_that_asks_for_a_gpu_is_never_trained_on_the_cpu(model, train, trained, monkeypatch):
    if xgboost_sees_a_gpu():
        pytest.skip("there is a GPU")
    parts = {"model": f"model: {{kind: {model}}}", "train": f"train: {{{train}}}"}
    parts["scale"] = "scale: {resources: {gpu: 1}}"
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(AssertionError, match="asks for a GPU, and"):
        trained(1, **parts)
    monkeypatch.setenv(VARIABLE, "cpu")
    losses, metrics, _ = trained(1, **parts)
    assert losses and metrics


def xgboost_sees_a_gpu() -> bool:
    try:
        boosted.check_device("cuda")
    except UserError:
        return False
    return True
