"""What goes wrong between here and a RayJob: each gets its reason, and leaves nothing half made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from heliostat.cli.main import _status_of
from heliostat.launch import kube, kube_client, kube_send
from heliostat.launch.rayjob import object_name
from heliostat.spec.kuberay import KubeRaySpec
from tests.conftest import PATIENCE_SECONDS, free_port
from tests.launch.kube_api import TOKEN, granted
from tests.launch.kube_server import kube_server

SITE = {
    "image": "heliostat:test", "namespace": "ml",
    "groups": [{"name": "cpu", "replicas": 2, "cpu": 4.0, "memory": "8Gi"}],
}  # fmt: skip
CLUSTER = KubeRaySpec.model_validate(SITE)
NAME = object_name("small", "one")
RAYJOB, CONFIG = ("ray.io/v1", "rayjobs", "ml", NAME), ("v1", "configmaps", "ml", NAME)
TERMINATING = "unable to create new content in namespace ml because it is being terminated"
POLICY = "ValidatingAdmissionPolicy 'images' with binding 'ml' denied request: use our registry"


@pytest.fixture
def server(tmp_path, monkeypatch):
    site = {"storage": f"{tmp_path}/s", "clusters": {"kube": {"kuberay": SITE}}}
    (tmp_path / "site.yaml").write_text(json.dumps(site))
    monkeypatch.setenv("HELIOSTAT_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.setattr(kube, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(kube, "REASON_SECONDS", 0.1)
    monkeypatch.setattr(kube_send, "POLL_SECONDS", 0.05)
    with kube_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server
        assert server.api.seen <= granted()


@pytest.fixture
def call(capsys):
    """A verb in this process: its exit status, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        status = _status_of([*map(str, words)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture
def submit(call, make_job):
    def submit(*words: object, **parts: str) -> tuple[int, str, str]:
        return call("submit", make_job(**parts), "--to", "kube", "--id", "one", *words)

    return submit


@pytest.mark.parametrize(
    ("right", "refusal", "status"),
    [
        ("create rayjobs", (403, "Forbidden", "is forbidden: exceeded quota: runs, used: 200"), 5),
        ("create rayjobs", (403, "Forbidden", TERMINATING), 5),
        ("create configmaps", (403, "Forbidden", TERMINATING), 5),
        ("create rayjobs", (403, "Forbidden", POLICY), 2),
        ("create rayjobs", (422, "Invalid", POLICY), 2),
        ("create rayjobs", (409, "Conflict", "the object has been modified; please try again"), 5),
        ("get rayjobs", (429, "TooManyRequests", "the server has received too many requests"), 5),
        ("create rayjobs", (500, "InternalError", "failed calling webhook: no endpoints"), 5),
        ("get rayjobs", (503, "ServiceUnavailable", "etcdserver: leader changed"), 5),
        ("create configmaps", (404, "NotFound", 'namespaces "ml" not found'), 2),
        ("create configmaps", (413, "RequestEntityTooLarge", "limit is 3145728"), 2),
    ],
)  # fmt: skip
def test_a_refusal_gives_its_reason_and_whether_sending_again_helps(
    server, submit, call, right, refusal, status
):
    server.api.refused = {tuple(right.split()): refusal}
    ended, out, err = submit()
    assert (ended, out) == (status, "") and refusal[2] in err and f"({refusal[0]})" in err
    assert ("sends this very run again" in err) == (status == 5)
    assert RAYJOB not in server.api.objects
    known = call("status", "small/one")[0]
    assert known == (0 if status == 5 and right.startswith("create") else 2)
    server.api.refused = {}
    assert submit()[0] == 0  # what was made before is used
    owner = server.api.objects[RAYJOB]["metadata"]["uid"]
    assert server.api.objects[CONFIG]["metadata"]["ownerReferences"][0]["uid"] == owner


def test_a_missing_right_is_named(server, submit):
    server.api.rights = server.api.rights - {("create", "rayjobs")}
    ended, _, err = submit()
    assert ended == 2 and 'User "tester" cannot create resource "rayjobs"' in err


def test_a_full_quota_is_no_reason_to_give_up(server, submit):
    server.api.num_rayjobs = 0
    ended, _, err = submit()
    assert ended == 5 and "exceeded quota: runs, requested: count/rayjobs.ray.io=1" in err
    server.api.num_rayjobs = 1
    assert submit()[0] == 0


def test_a_cluster_without_kuberay_says_so(server, submit, call):
    server.api.knows_kuberay = False
    ended, _, err = submit()
    assert ended == 2 and "KubeRay is not installed" in err and CONFIG not in server.api.objects


def unanswered(server, host: str) -> None:
    config = json.loads(server.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://{host}"
    server.kubeconfig.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("127.0.0.1:{port}", "connection refused"),
        ("nowhere.invalid:6443", "its name cannot be resolved"),
        ("127.0.0.1:{silent}", "no answer in time"),
    ],
)
def test_a_server_that_does_not_answer_is_one_sentence(server, submit, monkeypatch, host, sentence):
    monkeypatch.setattr(kube_client, "READ_SECONDS", 0.2)
    monkeypatch.setattr(kube_client, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = host.format(port=free_port(), silent=silent.getsockname()[1])
        unanswered(server, host)
        ended, _, err = submit()
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert ended == 5 and f"does not answer at https://{host}: {sentence}" in line
    assert "HTTPSConnectionPool" not in err and "Traceback" not in err


def test_a_certificate_that_is_not_trusted_is_one_sentence(server, submit, tmp_path):
    config = json.loads(server.kubeconfig.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    server.kubeconfig.write_text(json.dumps(config))
    ended, _, err = submit()
    assert ended == 2 and "the certificate of https://127.0.0.1" in err
    assert "is not accepted: self" in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: {", "current-context: nowhere"])
def test_a_kubeconfig_that_is_none_is_one_sentence(server, submit, text):
    server.kubeconfig.write_text(text)
    ended, _, err = submit()
    assert ended == 2 and "no Kubernetes configuration: " in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("log", "has_kubelet", "said"),
    [
        (None, True, ["note      the pod"]),  # no node yet: 204
        (b"", True, ["note      the pod"]),
        (b"one\xff\xfe\ntwo\x85\xe2\x80\xa8x\n", True, ["one\ufffd\ufffd", "two\ufffd\u2028x"]),
        (b"one", False, ["note      the log of the pod"]),
    ],
)
def test_any_log_can_be_read(server, submit, call, log, has_kubelet, said):
    assert submit()[0] == 0
    server.api.set_log(server.api.objects[RAYJOB], log)
    server.api.has_kubelet = has_kubelet
    ended, out, err = call("logs", "small/one")
    assert ended == 0, err
    lines = out.removesuffix("\n").split("\n") if out else []
    assert len(lines) == len(said) and all(map(str.startswith, lines, said))
    server.api.set_status(RAYJOB, jobDeploymentStatus="Failed", reason="SubmissionFailed")
    ended, out, err = call("logs", "-f", "small/one")
    assert ended == 1 and all(line in out for line in said) and "SubmissionFailed" in err


def test_what_cannot_have_its_config_map_is_not_made(server, submit):
    too_long = "data: Too long: may not be more than 1048576 bytes"
    server.api.refused = {("create", "configmaps"): (422, "Invalid", too_long)}
    ended, _, err = submit()
    assert ended == 2 and too_long in err and RAYJOB not in server.api.objects


@pytest.mark.parametrize("step", ["create rayjobs", "patch configmaps"])
def test_a_submission_cut_off_anywhere_is_known_and_can_be_sent_again(server, call, make_job, step):
    """The process dies between two requests: in front of the second."""
    code = (
        "import os, sys\n"
        "from heliostat.cli.main import _status_of\n"
        "from heliostat.launch import kube_send\n"
        f"name = {'_create' if step == 'create rayjobs' else '_patch_config'!r}\n"
        "setattr(kube_send, name, lambda *_: os._exit(9))\n"
        "_status_of(sys.argv[1:])\n"
    )
    words = ["submit", str(make_job()), "--to", "kube", "--id", "one"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=os.environ, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 9 and CONFIG in server.api.objects
    sent = step == "patch configmaps"
    assert (RAYJOB in server.api.objects) == sent
    status, out, _ = call("status", "small/one")
    assert status == 0 and ("PENDING" in out if sent else "there is no RayJob" in out)
    status, _, err = call(*words)
    assert status == 0 and ("nothing new was sent" in err) == sent
    [owner] = server.api.objects[CONFIG]["metadata"]["ownerReferences"]
    assert owner["uid"] == server.api.objects[RAYJOB]["metadata"]["uid"]
    assert call("stop", "small/one")[0] == 0 and CONFIG not in server.api.objects


def at_third_call(monkeypatch, name: str, happens) -> None:
    """Something happens while we wait: when `kube_send.NAME` is called for the third time."""
    calls, called = [], getattr(kube_send, name)

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            happens()
        return called(*arguments)

    monkeypatch.setattr(kube_send, name, counted)


def test_a_slow_garbage_collector_takes_nothing_from_the_new_run(server, submit, monkeypatch):
    assert submit()[0] == 0
    first = server.api.objects[CONFIG]["metadata"]["uid"]
    server.api.set_status(RAYJOB, jobDeploymentStatus="Failed", jobStatus="FAILED")
    server.api.collects_at_once = False
    at_third_call(monkeypatch, "_create_config", server.api.collect)
    ended, _, err = submit()
    assert ended == 0 and f"waiting for the ConfigMap {NAME}" in err
    server.api.collect()
    config = server.api.objects[CONFIG]["metadata"]
    assert config["uid"] != first
    assert config["ownerReferences"][0]["uid"] == server.api.objects[RAYJOB]["metadata"]["uid"]


def test_an_old_rayjob_is_waited_for_until_its_finalizer_lets_it_go(server, submit, monkeypatch):
    server.api.finalizers = ["ray.io/rayjob-finalizer"]
    assert submit()[0] == 0
    old = server.api.objects[RAYJOB]["metadata"]["uid"]
    server.api.delete(RAYJOB)
    monkeypatch.setattr(kube_send, "GONE_SECONDS", 0.0)
    ended, _, err = submit()
    assert ended == 5 and "it waits for ray.io/rayjob-finalizer" in err
    monkeypatch.setattr(kube_send, "GONE_SECONDS", 60.0)
    at_third_call(monkeypatch, "find", lambda: server.api.remove(RAYJOB))
    ended, _, err = submit()
    assert ended == 0 and f"waiting for the RayJob {NAME}" in err
    assert "nothing new was sent" not in err
    assert server.api.objects[RAYJOB]["metadata"]["uid"] != old


def test_the_same_id_with_another_job_is_refused_with_the_difference(server, submit, call):
    assert submit()[0] == 0
    ended, out, err = submit("--set", "train.rounds=5")
    assert (ended, out) == (2, "") and "train.rounds: 4 -> 5" in err
    assert json.loads(server.api.objects[CONFIG]["data"]["job.json"])["train"]["rounds"] == 4
    assert submit()[0] == 0  # the very same
    assert "PENDING" in call("status", "small/one")[1]
    server.api.set_status(RAYJOB, jobDeploymentStatus="Failed", jobStatus="FAILED")
    ended, _, err = submit("--set", "limits.hours=2")
    assert ended == 0 and "goes on with another job file: limits" in err
    assert json.loads(server.api.objects[CONFIG]["data"]["job.json"])["limits"] == {"hours": 2}


def test_the_same_run_with_other_pods_says_which(server, submit, tmp_path):
    assert submit()[0] == 0
    rayjob = server.api.objects[RAYJOB]
    rayjob["spec"] |= {"suspend": True, "managedBy": "ray.io/kuberay-operator"}  # Kueue, defaults
    assert "asked for otherwise" not in submit()[2]
    site = {
        "storage": f"{tmp_path}/s",
        "clusters": {"kube": {"kuberay": SITE | {"ttl_minutes": 5}}},
    }
    (tmp_path / "site.yaml").write_text(json.dumps(site))
    ended, _, err = submit()
    assert ended == 0 and "ttlSecondsAfterFinished: 3600 -> 300" in err


def hinder(server) -> None:
    """Nothing comes of the run's pods."""
    made = f"{NAME}-x7k2p"
    server.api.set_status(RAYJOB, jobDeploymentStatus="Initializing", rayClusterName=made)
    failure = {
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod",
        "message": 'pods "h-" is forbidden: no PriorityClass with name urgent was found',
    }  # fmt: skip
    server.api.add("ray.io/v1", "rayclusters", made, status={"conditions": [failure]})
    for number in range(2):
        labels = {"heliostat/key": NAME, "ray.io/node-type": "worker"}
        unscheduled = {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }  # fmt: skip
        server.api.add("v1", "pods", f"{made}-worker-{number}", metadata={"labels": labels},
                       status={"phase": "Pending", "conditions": [unscheduled]})  # fmt: skip
    for number, (about, message) in enumerate(
        [
            (made, "MountVolume.SetUp failed: secret ml-storage not found"),
            ("other-run", "not about us"),
        ]
    ):
        server.api.add(
            "v1", "events", f"e{number}", type="Warning", reason="FailedMount", message=message,
            involvedObject={"kind": "Pod", "name": about}, lastTimestamp="2026-01-01T00:00:00Z",
        )  # fmt: skip


REASONS = (
    "no PriorityClass with name urgent was found",
    "2 worker pods: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.",
    "FailedMount: MountVolume.SetUp failed: secret ml-storage not found",
)


def test_why_pods_do_not_come_is_in_status_and_in_wait(server, submit, call):
    assert submit()[0] == 0
    hinder(server)
    status, out, _ = call("status", "small/one")
    assert status == 0 and all(reason in out for reason in REASONS) and "not about us" not in out
    seen = []
    for change in kube.changes(CLUSTER, NAME, lambda: False):
        seen.append(change.sentence)
        if all(reason in change.sentence for reason in REASONS):
            server.api.set_status(RAYJOB, jobDeploymentStatus="Failed",
                                  reason="PreRunningDeadlineExceeded")  # fmt: skip
    assert [seen[0], seen[-1]] == ["Initializing", "Failed: PreRunningDeadlineExceeded"]
    assert len(seen) == 3  # each once
    status, out, _ = call("status", "small/one")
    assert "FAILED" in out and REASONS[0] in out


def test_what_we_may_not_see_hides_nothing_else(server, submit, call):
    server.api.rights = server.api.rights - {("list", "events"), ("get", "rayclusters")}
    assert submit()[0] == 0
    hinder(server)
    status, out, _ = call("status", "small/one")
    assert status == 0 and REASONS[1] in out and 'cannot list resource "events"' in out


def test_rights_that_are_taken_while_we_wait_are_told_at_once(server, submit, monkeypatch):
    watched = kube._watched

    def watched_once(*where):
        yield from watched(*where)
        server.api.rights = server.api.rights - {("list", "rayjobs")}

    monkeypatch.setattr(kube, "_watched", watched_once)
    ended, out, err = submit("--wait")
    assert ended == 4 and 'cannot list resource "rayjobs"' in err, out


def test_an_absence_and_an_old_token_are_told_and_outlived(server, submit):
    assert submit()[0] == 0
    seen = []
    for change in kube.changes(CLUSTER, NAME, lambda: False):
        seen.append(change.sentence)
        if len(seen) == 1:
            server.write_config("expired")
        if "does not know us (401)" in change.sentence:
            server.write_config(TOKEN)
            server.api.refused = {("list", "rayjobs"): (503, "ServiceUnavailable", "shutting down")}
        if "shutting down" in change.sentence:
            server.api.refused = {}
            server.api.set_status(RAYJOB, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert seen[-1] == "Complete SUCCEEDED"


def test_a_watch_survives_cut_streams_and_expired_versions(server):
    server.api.add("ray.io/v1", "rayjobs", NAME)
    steps = [
        ("Initializing", ""), ("Running", "PENDING"), ("Running", "RUNNING"), ("Complete", "SUCCEEDED")
    ]  # fmt: skip
    left, seen = list(steps), []
    for status in kube.changes(CLUSTER, NAME, lambda: False):
        seen.append((status.deployment, status.job))
        if len(left) == 3:
            server.api.cut_streams = 1
        if len(left) == 2:
            server.api.oldest = server.api.version + 1  # what is known is too old
        if left:
            deployment, job = left.pop(0)
            server.api.set_status(RAYJOB, jobDeploymentStatus=deployment, jobStatus=job)
    assert seen == [("", ""), *steps]


def test_the_role_grants_what_is_used_and_no_more(server, submit, call):
    assert submit()[0] == 0
    assert submit()[0] == 0  # looks at the ConfigMap of the run that is there
    hinder(server)
    server.api.set_log(server.api.objects[RAYJOB], b"said")
    assert call("status", "small/one")[0] == call("logs", "small/one")[0] == 0
    next(iter(kube.changes(CLUSTER, NAME, lambda: False)))
    list(kube.changes(CLUSTER, NAME, lambda: server.api.seen >= {("watch", "rayjobs")}))
    assert call("stop", "small/one")[0] == 0
    assert server.api.seen == granted()
