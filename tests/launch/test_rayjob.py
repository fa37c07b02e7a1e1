"""RayJobs as values: the golden manifest, KubeRay's own rules, pod security, hostile values."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.errors import UserError
from heliostat.launch.placement import place
from heliostat.launch.pods import patched
from heliostat.launch.rayjob import object_name, render
from heliostat.spec.kuberay import KubeRaySpec
from heliostat.spec.load import load_job
from tests.launch.crds import insecure, needs_crds, problems_with

GOLDEN = Path(__file__).parent / "golden"
CLUSTER = {
    "image": "registry.example/heliostat:0.1.0",
    "namespace": "ml",
    "service_account": "heliostat-run",
    "queue": "training",
    "priority": "batch",
    "storage_secret": "ml-storage",
    "secrets": {"HF_TOKEN": {"name": "hub", "key": "token"}},
    "head": {"cpu": 2.0, "memory": "8Gi", "price_per_hour": 0.1},
    "groups": [
        {"name": "cpu", "replicas": 4, "cpu": 8.0, "memory": "32Gi", "price_per_hour": 0.4},
        {
            "name": "gpu", "replicas": 8, "cpu": 12.0, "memory": "96Gi", "gpu": 2, "spot": True,
            "price_per_hour": 2.5, "node_selector": {"gpu": "h100"},
        },
    ],
}  # fmt: skip


def cluster(**changes) -> KubeRaySpec:
    return KubeRaySpec.model_validate(CLUSTER | changes)


def job(make_job, *more: str):
    return load_job(make_job(), settings=("storage=s3://ml/runs", *more))


JOBS = {
    "plain": (),
    "gpu": ("scale={workers: 6, resources: {cpu: 6, gpu: 1}}", "model={kind: mlp}", "train={}"),
    "elastic": ("scale.workers={min: 4, max: 20}", "model={kind: mlp}", "train={}"),
    "sweep": ("tune={space: {model.max_depth: [3, 4]}, search: grid}", "limits.hours=2"),
    "secret": ("secrets=[HF_TOKEN]", "labels={team: growth}"),
}


@pytest.mark.parametrize("name", JOBS)
@needs_crds
def test_kuberay_takes_every_rayjob(make_job, name):
    request = render(job(make_job, *JOBS[name]), cluster(), "one")
    assert problems_with(request.rayjob) == []


@needs_crds
def test_what_kuberay_refuses_is_seen(make_job):
    value = json.loads(json.dumps(render(job(make_job), cluster(), "one").rayjob))
    value["spec"]["noSuchField"] = 1
    value["spec"]["backoffLimit"] = "none"
    value["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "many"
    assert len(problems_with(value)) == 3


@pytest.mark.parametrize("name", JOBS)
def test_no_pod_is_insecure_and_each_ends_after_ray_has_drained(make_job, name):
    spec = render(job(make_job, *JOBS[name]), cluster(), "one").rayjob["spec"]
    ray = spec["rayClusterSpec"]
    pods = [ray["headGroupSpec"]["template"], spec["submitterPodTemplate"]]
    pods += [group["template"] for group in ray["workerGroupSpecs"]]
    # The autoscaler in an elastic job's head asks the API server.
    allowed = [["a token is mounted"], [], []] if name == "elastic" else [[]] * 3
    assert [insecure(pod) for pod in pods] == allowed
    for pod in pods:
        [container] = pod["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 90 + 20


def test_the_manifest_is_the_golden_one_and_the_same_twice(make_job):
    """Write it anew by deleting it."""
    begin = time.perf_counter()
    found = [
        json.dumps(render(job(make_job, *JOBS["gpu"]), cluster(), "one").to_json(), indent=1)
        for _ in range(2)
    ]
    assert found[0] == found[1] and time.perf_counter() - begin < 5
    text = found[0].replace(str(make_job().parent.parent), "TMP")
    value = json.loads(text)
    value["items"][0]["data"] = {"job.json": "..."}  # has this machine's paths in it
    path = GOLDEN / "rayjob.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")
    assert value == json.loads(path.read_text())


def test_workers_are_placed_by_a_sum(make_job):
    gpu = place(job(make_job, *JOBS["gpu"]).spec, cluster())
    assert (gpu.group.name, gpu.per_pod, gpu.least, gpu.most) == ("gpu", 2, 3, 3)
    assert gpu.price_per_hour(cluster()) == pytest.approx(0.1 + 3 * 2.5)
    elastic = place(job(make_job, *JOBS["elastic"]).spec, cluster())
    assert (elastic.group.name, elastic.least, elastic.most) == ("cpu", 1, 3)
    with pytest.raises(UserError, match=r"`gpu`: 12 CPU / 1, 2 GPU / 3; 8 pods hold 0 of 1"):
        place(job(make_job, "scale.resources.gpu=3").spec, cluster())
    assert place(job(make_job, *JOBS["sweep"]).spec, cluster()).most == 4


nasty = st.text(
    st.sampled_from(list("abAB019-_./\\\"'`$(){}[]<>|&;*?!~#%^=+@ \n\r\t\0é")),
    min_size=1,
    max_size=40,
)


@given(st.text(max_size=30) | nasty, nasty, nasty)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile_values_arrive_literally_or_are_refused(make_job, run_id, key, value):
    base = job(make_job)
    try:
        base = base.replace({"labels": {key: value}, "data.filter": None})
        request = render(base, cluster(), run_id)
    except UserError:
        return
    spec = request.rayjob["spec"]
    words = spec["entrypoint"].split(" ")
    assert words == ["python", "-m", "heliostat", "run", "/etc/heliostat/job.json", "--id", run_id]
    assert request.rayjob["metadata"]["labels"][key] == value
    assert set(run_id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert request.name == object_name("small", run_id) and len(request.name) <= 47


@pytest.mark.parametrize(
    "label",
    [
        "job-name", "controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/x",
        "ray.io/cluster", "kueue.x-k8s.io/queue-name", "heliostat/key",
        "team-", "a..b/c", "-a/c", "a/b/c", "team\n", "a" * 64,
    ],
)  # fmt: skip
def test_labels_that_others_set_or_the_api_server_refuses_are_refused_here(make_job, label):
    labelled = job(make_job).replace({"labels": {label: "x"}})
    with pytest.raises(UserError, match="labels"):
        render(labelled, cluster(), "one")
    if label.startswith(("job", "controller", "batch")):
        with pytest.raises(UserError, match="pod_patch"):
            patched = cluster(pod_patch={"metadata": {"labels": {label: "x"}}})
            render(job(make_job), patched, "one")
    fine = job(make_job).replace({"labels": {"example.com/team": "x", "job-names": "y"}})
    assert render(fine, cluster(), "one").rayjob["metadata"]["labels"]["job-names"] == "y"


def test_an_elastic_run_is_one_for_kueue_and_keeps_its_account(make_job):
    for name, elastic in (("elastic", True), ("plain", False)):
        value = render(job(make_job, *JOBS[name]), cluster(), "one").rayjob
        for kind in ("labels", "annotations"):
            assert ("kueue.x-k8s.io/elastic-job" in value["metadata"][kind]) == elastic
        head = value["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        assert head["serviceAccountName"] == "heliostat-run"
        assert head["automountServiceAccountToken"] == elastic
    value = render(job(make_job, *JOBS["elastic"]), cluster(queue=None), "one").rayjob
    assert not any(key.startswith("kueue") for key in value["metadata"]["labels"])


def test_the_size_of_a_config_map_is_that_of_what_is_sent(make_job):
    """Kubernetes counts the bytes of its texts, up to 1 MiB."""
    limit = 2**20
    features = {f"column_{i}": "number" for i in range(2000)}  # indented as it is sent

    def filtered(num_letters: int):
        values = {"data.features": features, "data.filter": f"color == '{'a' * num_letters}'"}
        return job(make_job).replace(values)

    def sent(num_letters: int) -> int:
        [config, _] = render(filtered(num_letters), cluster(), "one").objects
        return sum(len(text.encode()) for text in config["data"].values())

    room = limit - sent(1)
    assert sent(1 + room) == limit
    with pytest.raises(UserError, match=r"takes 1,048,577 bytes as it is sent; .* holds 1,048,576"):
        render(filtered(2 + room), cluster(), "one")


def test_a_job_s_own_words_are_in_the_mounted_file_alone(make_job):
    evil = "x == '$(touch /tmp/pwned) `id` \\'; ../../etc'"
    request = render(job(make_job, f"data.filter={json.dumps(evil)}"), cluster(), "one")
    [config, rayjob] = request.objects
    assert json.loads(config["data"]["job.json"])["data"]["filter"] == evil
    assert "pwned" not in json.dumps(rayjob)


def test_no_value_of_a_secret_is_rendered(make_job, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    text = json.dumps(render(job(make_job, *JOBS["secret"]), cluster(), "one").to_json())
    assert "verysecret" not in text
    assert '"secretKeyRef": {"name": "hub", "key": "token"}' in text
    with pytest.raises(UserError, match="does not say where `OTHER` comes from"):
        render(job(make_job, "secrets=[OTHER]"), cluster(), "one")


def test_a_folder_of_this_machine_is_no_storage_for_pods(make_job):
    with pytest.raises(UserError, match="which pods do not see"):
        render(load_job(make_job()), cluster(), "one")


def test_the_patch_comes_last_and_merges_by_name():
    pod = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}], "x": 1}}
    patch = {
        "spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}], "x": None}
    }
    assert patched(pod, patch) == {
        "spec": {"containers": [
            {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}
        ]}
    }  # fmt: skip


def test_a_mount_is_patched_into_head_and_workers_each_by_its_container(make_job):
    mount = [{"name": "runs", "mountPath": "/mnt"}]
    patch = {"spec": {
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "c"}}],
        "containers": [{"name": name, "volumeMounts": mount} for name in ("ray-head", "ray-worker")],
    }}  # fmt: skip
    spec = render(job(make_job), cluster(pod_patch=patch), "one").rayjob["spec"]
    ray = spec["rayClusterSpec"]
    pods = [
        ray["headGroupSpec"],
        *ray["workerGroupSpecs"],
        {"template": spec["submitterPodTemplate"]},
    ]
    for pod, mounted in zip(pods, (True, True, False), strict=True):
        [container] = pod["template"]["spec"]["containers"]
        assert container["image"] == CLUSTER["image"]
        assert (mount[0] in container["volumeMounts"]) == mounted
        assert "scratch" in [m["name"] for m in container["volumeMounts"]]


def test_an_old_name_never_stands_for_another_run():
    assert object_name("a-b", "c") != object_name("a", "b-c")
