"""What a run's folder says of it, and how its Ray is waited for; no Ray here."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from heliostat.errors import ClusterLostError, InterruptedRunError, StoppedError, UserError
from heliostat.report.console import Console
from heliostat.run import cluster as cluster_module
from heliostat.run.guardian import Guardian
from heliostat.run.limits import Deadline
from heliostat.run.reach import check_reachable
from heliostat.run.record import RunRecord
from heliostat.signals import Signals
from heliostat.storage.lease import Lease
from heliostat.storage.runs import RunFolder
from heliostat.train.events import Stepped


def attempt(folder: RunFolder) -> RunRecord:
    folder.path.mkdir(parents=True, exist_ok=True)
    lease = Lease.acquire(folder.lease)
    assert lease is not None
    spec = SimpleNamespace(objective_metric="auc", labels={})
    return RunRecord(folder, lease, Console(), spec)


def step(number: int) -> Stepped:
    return Stepped(number, 10, 0.1 * number, 0.5, 0.1, 100.0)


def test_a_resume_that_fails_leaves_what_is_known(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a" / "1")
    first = attempt(folder)
    first.event(step(4), 0.0)
    first.end(StoppedError("stopped at step 4"))
    second = attempt(folder)
    assert folder.read_state()["progress"] == 0.4  # also while it goes on
    second.end(ClusterLostError("no Ray cluster answers at 127.0.0.1:9"))
    state = folder.read_state()
    assert (state["status"], state["progress"], state["attempt"]) == ("STOPPED", 0.4, 2)
    assert "stopped at step 4" in state["error"] and "127.0.0.1:9" in state["error"]
    third = attempt(folder)
    third.end(InterruptedRunError("terminated by SIGTERM"), by_signal=True)
    assert (folder.read_state()["status"], folder.read_state()["progress"]) == ("INTERRUPTED", 0.4)
    fourth = attempt(folder)
    fourth.event(step(6), 0.0)
    fourth.end(InterruptedRunError("the time limit `limits.hours` is over"))
    assert (folder.read_state()["status"], folder.read_state()["progress"]) == ("INTERRUPTED", 0.6)


def test_only_the_first_end_counts(tmp_path):
    record = attempt(folder := RunFolder(tmp_path / "runs" / "a" / "1"))
    record.event(step(4), 0.0)
    record.end(StoppedError("stopped at step 4"))
    record.end(None)
    assert folder.read_state()["status"] == "STOPPED" and record.outcome is not None


@pytest.mark.parametrize("is_better_then", [True, False])
def test_ray_is_given_a_second_and_longer_chance_to_start(monkeypatch, is_better_then):
    tried: list[float] = []

    def start(cpus, meanwhile, up_seconds):
        tried.append(up_seconds)
        if len(tried) == 1 or not is_better_then:
            raise Exception("The current node timed out during startup. This could happen")

    monkeypatch.setattr(cluster_module, "start_one_node", start)
    monkeypatch.setattr(cluster_module, "private_token", lambda: None)
    monkeypatch.setattr(cluster_module.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(cluster_module, "Lifeline", lambda is_embedded: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said: list[str] = []
    if is_better_then:
        cluster_module._embed(lambda: None, said.append)
    else:
        with pytest.raises(ClusterLostError, match="in two attempts: The current node timed out"):
            cluster_module._embed(lambda: None, said.append)
    assert len(tried) == 2 and tried[1] > 3 * tried[0]
    assert "trying once more, for up to 3 minutes" in said[0]


@pytest.mark.parametrize(
    ("address", "error", "told"),
    [
        ("127.0.0.1:9", ClusterLostError, "no Ray cluster answers at 127.0.0.1:9: Connection refused"),
        ("nowhere.invalid:6379", ClusterLostError, "no Ray cluster answers at nowhere.invalid:6379"),
        ("http://127.0.0.1:8265", UserError, "`http://127.0.0.1:8265` is a dashboard's"),
        ("127.0.0.1", UserError, "`127.0.0.1` is no address of a Ray cluster; give HOST:PORT"),
        ("127.0.0.1:port", UserError, "`127.0.0.1:port` is no address of a Ray cluster"),
    ],
)  # fmt: skip
def test_an_address_where_nobody_answers_is_told_at_once(address, error, told):
    with pytest.raises(error, match=told):
        check_reachable(address)


def test_a_dead_address_ends_a_run_with_a_sentence(heliostat, make_job, tmp_path):
    job = make_job()
    settings = ("--set", f"storage={tmp_path}/s", "--id", "one")
    done = heliostat("run", job, *settings, env={"RAY_ADDRESS": "127.0.0.1:9"})
    assert done.returncode == 5
    assert "no Ray cluster answers at 127.0.0.1:9: Connection refused" in done.stderr
    state = RunFolder(tmp_path / "s" / "runs" / "small" / "one").read_state()
    assert state["status"] == "INTERRUPTED" and "127.0.0.1:9" in state["error"]
    done = heliostat("run", job, *settings, env={"RAY_ADDRESS": "127.0.0.1"})
    assert done.returncode == 2 and "RAY_ADDRESS: `127.0.0.1` is no address" in done.stderr


@pytest.mark.parametrize(
    ("number", "asked", "error", "status", "told"),
    [
        (0, True, StoppedError("stopped at step 4"), 3, "stopped at step 4"),
        (signal.SIGINT, False, StoppedError("stopped at step 4"), 3, "stopped at step 4"),
        (signal.SIGTERM, False, StoppedError("stopped at step 4"), 5, "terminated by SIGTERM: stopped at step 4"),
        (signal.SIGTERM, True, StoppedError("stopped at step 4"), 3, "stopped at step 4"),
        (signal.SIGHUP, False, RuntimeError("a pipe broke"), 5, "terminated by SIGHUP; it ended with RuntimeError: a pipe broke"),
    ],
)  # fmt: skip
def test_who_asked_decides_what_an_end_is_called(tmp_path, number, asked, error, status, told):
    record = attempt(RunFolder(tmp_path / "runs" / "a" / "1"))
    record.stop_was_asked = asked
    signals = Signals()
    signals.number = number
    found = Guardian(record, signals, Deadline(None, "")).told(error)
    record.end(found, signals.requested)
    assert (found.exit_status, str(found)) == (status, told)
