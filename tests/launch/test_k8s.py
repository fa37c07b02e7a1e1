"""The manifests of `k8s/`: each overlay builds, is valid, and gives nobody more than it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from heliostat.errors import INTERRUPTED
from heliostat.launch.rayjob import RAY_VERSION
from heliostat.spec.load import load_job, load_site
from tests.conftest import ROOT
from tests.launch.crds import insecure

OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir() if path.is_dir())
OTHERS = {"PodMonitor", "ResourceFlavor", "ClusterQueue", "LocalQueue"}  # not Kubernetes' own kinds
pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")


def build(folder: str) -> list[dict]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k8s" / folder)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_safe(overlay):
    objects = build(f"overlays/{overlay}")
    kinds = {value["kind"] for value in objects}
    assert {"Namespace", "Role", "NetworkPolicy", "ResourceQuota", "PriorityClass"} <= kinds
    for value in objects:
        if value["kind"] not in OTHERS:
            kubernetes_validate.validate(value, "1.33", strict=True)
        if value["kind"] == "Role":
            for rule in value["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
                assert not {"secrets", "pods/exec"} & set(rule["resources"])
        if value["kind"] == "ServiceAccount":
            assert value["automountServiceAccountToken"] is False
        if value["kind"] == "CronJob":
            pod = value["spec"]["jobTemplate"]["spec"]["template"]
            assert insecure(pod) == ["a token is mounted"]  # it talks to the API server
    assert kinds & {"ClusterRole", "ClusterRoleBinding"} == set()


def test_the_operator_may_ask_a_head_and_nobody_else_from_outside():
    policies = {
        v["metadata"]["name"]: v["spec"] for v in build("base") if v["kind"] == "NetworkPolicy"
    }
    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    [rule] = policies["operator-to-dashboard"]["ingress"]
    assert rule["ports"] == [{"port": 8265, "protocol": "TCP"}]
    outside = [
        name for name, spec in policies.items()
        for rule in spec.get("ingress", [])
        for place in rule["from"] if "namespaceSelector" in place
    ]  # fmt: skip
    assert outside == ["operator-to-dashboard"]


def test_the_nightly_run_s_files_load(tmp_path):
    objects = {(v["kind"], v["metadata"]["name"]): v for v in build("overlays/production")}
    for name, file in (("heliostat-site", "site.yaml"), ("heliostat-nightly", "job.yaml")):
        (tmp_path / file).write_text(objects["ConfigMap", name]["data"][file])
    site = load_site(tmp_path / "site.yaml")
    assert load_job(tmp_path / "job.yaml").spec.name == "nightly"
    job = objects["CronJob", "heliostat-nightly"]["spec"]["jobTemplate"]["spec"]
    evicted, interrupted, failed = job["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore" and "onPodConditions" in evicted
    # What interrupts does not count, so that no run of a night is given up for it; the night ends.
    assert (interrupted["action"], interrupted["onExitCodes"]["operator"]) == ("Ignore", "In")
    assert (failed["action"], failed["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    for rule in (interrupted, failed):
        assert rule["onExitCodes"]["values"] == [INTERRUPTED]
    assert job["activeDeadlineSeconds"] < 24 * 3600
    [container] = job["template"]["spec"]["containers"]
    assert container["image"] == site.clusters["kube"].kuberay.image
    assert "sh" not in container["command"] and "$(RUN_ID)" in container["args"]


@pytest.mark.parametrize("folder", [*(f"overlays/{name}" for name in OVERLAYS), "gitops"])
def test_what_belongs_together_agrees(folder):
    objects = {(v["kind"], v["metadata"]["name"]): v for v in build(folder)}
    for value in objects.values():  # whose namespace comes with it
        namespace = value["metadata"].get("namespace")
        assert namespace is None or ("Namespace", namespace) in objects, value["metadata"]
        for subject in value.get("subjects", []):
            if subject["kind"] == "ServiceAccount":
                assert (subject["kind"], subject["name"]) in objects
                assert subject["namespace"] == namespace
    quota = objects["ResourceQuota", "runs"]["spec"]["hard"]
    budget = objects.get(("PodDisruptionBudget", "heads"))
    if budget is not None:  # as many heads as there may be, and none may be evicted
        assert budget["spec"]["minAvailable"] >= int(quota["count/rayjobs.ray.io"])
    queue = objects.get(("ClusterQueue", "heliostat"))
    if queue is not None:
        [flavor] = queue["spec"]["resourceGroups"][0]["flavors"]
        given = {entry["name"]: entry["nominalQuota"] for entry in flavor["resources"]}
        assert given == {name: quota[f"requests.{name}"] for name in given} and len(given) == 3
        assert queue["apiVersion"] == "kueue.x-k8s.io/v1beta2"


def test_the_operator_removes_what_has_ended_and_outlives_a_lost_answer():
    values = yaml.safe_load((ROOT / "k8s" / "operator-values.yaml").read_text())
    variables = {entry["name"]: entry["value"] for entry in values["env"]}
    assert variables["DELETE_RAYJOB_CR_AFTER_JOB_FINISHES"] == "true"
    assert int(variables["RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS"]) > 300  # the operator's own
    assert values["watchNamespace"] == [build("base")[0]["metadata"]["name"]]


def test_the_run_under_version_control_is_what_render_prints(heliostat):
    folder = ROOT / "k8s" / "gitops"
    job, site = folder / "job.yaml", {"HELIOSTAT_SITE": str(folder / "site.yaml")}
    done = heliostat("render", job, "--to", "kube", "--id", "first", env=site)
    assert done.stdout == (folder / "rayjob.json").read_text(), done.stderr
    objects = {(v["kind"], v["metadata"]["name"]) for v in build("gitops")}
    for value in json.loads(done.stdout)["items"]:
        if value["kind"] == "RayJob":
            pod = value["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
            assert ("ServiceAccount", pod["serviceAccountName"]) in objects
            assert ("PriorityClass", pod["priorityClassName"]) in objects


def test_a_patch_merges_groups_and_containers_by_name():
    [rayjob] = [value for value in build("gitops") if value["kind"] == "RayJob"]
    [group] = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    names = {entry["name"] for entry in container["env"]}
    assert {"NCCL_DEBUG", "HELIOSTAT_SENT_BY"} <= names and container["image"]


def test_the_dashboard_shows_gauges_that_there_are():
    text = (ROOT / "k8s" / "components" / "monitoring" / "heliostat.json").read_text()
    shown = set(re.findall(r"ray_heliostat_(\w+)\{", json.dumps(json.loads(text))))
    made = (ROOT / "platform" / "heliostat" / "run" / "gauges.py").read_text()
    assert shown == set(re.findall(r'gauge\("(\w+)"', made))


def test_image_and_manifests_go_by_the_pinned_versions():
    pinned = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={RAY_VERSION}\n" in pinned
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in dockerfile and ":latest" not in dockerfile
    assert dockerfile.index("USER 1000") > dockerfile.rindex("RUN ")
