"""A whole run on a real Kubernetes cluster, for who has one: kind, KubeRay, our base and an image.

HELIOSTAT_KIND_CONTEXT names its kubeconfig context, HELIOSTAT_KIND_IMAGE the image it has, and
HELIOSTAT_KIND_STORAGE a URI that its pods and this machine both reach.
"""

from __future__ import annotations

import json
import os

import pytest

CONTEXT = os.environ.get("HELIOSTAT_KIND_CONTEXT")
pytestmark = pytest.mark.skipif(
    not CONTEXT, reason="HELIOSTAT_KIND_CONTEXT names no Kubernetes cluster with KubeRay"
)


def test_a_run_on_a_real_cluster(heliostat, tmp_path):
    storage = os.environ["HELIOSTAT_KIND_STORAGE"]
    kuberay = {
        "image": os.environ["HELIOSTAT_KIND_IMAGE"], "namespace": "heliostat", "context": CONTEXT,
        "head": {"cpu": 1.0, "memory": "2Gi"},
        "groups": [{"name": "cpu", "replicas": 1, "cpu": 2.0, "memory": "3Gi"}],
    }  # fmt: skip
    (tmp_path / "site.yaml").write_text(
        json.dumps({"storage": storage, "clusters": {"kind": {"kuberay": kuberay}}})
    )
    from heliostat.storage.objects import as_path
    from tests.conftest import job_text, write_table

    source = as_path(f"{storage}/test-table")
    for file in write_table(tmp_path / "table").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (tmp_path / "job.yaml").write_text(job_text(source))
    done = heliostat(
        "submit", tmp_path / "job.yaml", "--to", "kind", "--wait",
        env={"HELIOSTAT_SITE": str(tmp_path / "site.yaml")}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0 and "report    " in done.stdout, done.stderr + done.stdout
