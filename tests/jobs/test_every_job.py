"""Every file in jobs/ plans as it stands, and runs when it is made small."""

from __future__ import annotations

import json
import re
import sys

import pytest

from heliostat.plan.plan import plan_job
from heliostat.spec.load import load_job
from tests.conftest import ROOT

JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
SMALL = {
    "crossval": ["model.max_iter=30"],
    "custom": [],
    "digits": ["model.n_estimators=20"],
    "forest-grid": ["tune.space={model.max_depth: [4, 12]}"],
    "fused-sweep": ["tune.trials=4", "train.epochs=2"],
    "language-model": [
        "train.steps=60",
        "train.validate_every=60",
        "data.filter=\"module < 'c'\"",
    ],
    "mlp": ["train.epochs=1"],
    "quickstart": ["train.rounds=10"],
    "regression": [],
    "sweep": ["tune.trials=2", "train.epochs=2"],
    "xgboost-sweep": ["tune.trials=2", "train.rounds=10"],
}
AT_LEAST = {"accuracy": 0.9, "auc": 0.85}


@pytest.fixture(scope="session")
def sources(flights, tmp_path_factory):
    sys.path.insert(0, str(ROOT / "jobs"))
    try:
        from corpus import write_corpus
        from digits import write_digits
    finally:
        sys.path.remove(str(ROOT / "jobs"))
    path = tmp_path_factory.mktemp("digits") / "digits.parquet"
    write_digits(path)
    texts = tmp_path_factory.mktemp("corpus") / "modules.parquet"
    write_corpus(texts)
    special = {"digits": path, "crossval": path, "forest-grid": path, "language-model": texts}
    return {name: str(source) for name, source in special.items()}, str(flights)


def source_of(path, sources) -> str:
    special, flights = sources
    return special.get(path.stem, flights)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_it_plans(path, sources):
    plan = plan_job(load_job(path, settings=[f"data.source={source_of(path, sources)}"]))
    assert plan.counts is not None and plan.counts.train > 500


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_it_runs(path, sources, heliostat, tmp_path_factory, ray_head):
    storage = tmp_path_factory.getbasetemp() / "jobs-storage"  # one prepared copy serves many
    settings = [
        f"data.source={source_of(path, sources)}",
        f"storage={storage}",
        *SMALL.get(path.stem, []),
    ]
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = heliostat("run", path, "--json", *arguments, env={"RAY_ADDRESS": ray_head.address})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    metric = result["objective"]["metric"]
    assert set(result["metrics"]) == {"train", "validation", "test"}
    if metric in AT_LEAST:
        assert result["metrics"]["test"][metric] > AT_LEAST[metric]
    elif metric == "log_loss":  # bytes drawn alike cost log(257) = 5.5
        assert result["metrics"]["test"][metric] < 3.0
    else:
        assert result["metrics"]["test"]["r2"] > 0.7
    page = (storage / "runs" / result["run"] / "report.html").read_text()
    assert "<svg" in page and not re.search(r"<script|<link|src=|href=\"http|url\(http", page)
