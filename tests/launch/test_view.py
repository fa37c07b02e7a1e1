"""What is known of a run from here, without a cluster."""

from __future__ import annotations

from heliostat.launch import view
from heliostat.launch.sent import Sent, remember
from heliostat.spec.site import SiteSpec
from heliostat.storage.files import write_json
from heliostat.storage.runs import Storage

STATE = {"format": 1, "status": "STOPPED", "attempt": 1, "heartbeat": 0, "progress": 0.5}


class Cluster:
    """Its job goes on for three looks more; after the second, `begins` happens."""

    def __init__(self, begins):
        self.looks, self.begins = [], begins

    def look(self, submission):
        self.looks.append(submission)
        if len(self.looks) == 2:
            self.begins()
        return ("RUNNING" if len(self.looks) < 4 else "STOPPED"), ""


def wait(tmp_path, monkeypatch, begins) -> tuple[list[str], list[str]]:
    """What is looked at, and what is told, for a run that has stopped."""
    storage, cluster, told = Storage.open(str(tmp_path)), Cluster(begins), []
    folder = storage.run("small", "one")
    folder.path.mkdir(parents=True)
    write_json(folder.path / "state.json", STATE)
    remember(storage, Sent("small", "one", "lab", "small-one"))
    monkeypatch.setattr(view, "find_cluster", lambda site, name: name)
    monkeypatch.setattr(view, "destination", lambda name: cluster)
    monkeypatch.setattr(view, "LOOK_SECONDS", 0.0)
    view.wait_for_close(storage, SiteSpec(), "small/one", told.append)
    return cluster.looks, told


def test_a_run_that_has_stopped_is_waited_for_while_its_job_ends(tmp_path, monkeypatch):
    looks, told = wait(tmp_path, monkeypatch, lambda: None)
    assert looks == ["small-one"] * 4
    assert told == ["waiting for the last attempt of small/one to leave its cluster"]


def test_a_run_that_goes_on_meanwhile_is_not(tmp_path, monkeypatch):
    state = tmp_path / "runs" / "small" / "one" / "state.json"
    again = STATE | {"status": "SUCCEEDED", "attempt": 2}
    looks, _ = wait(tmp_path, monkeypatch, lambda: write_json(state, again))
    assert len(looks) == 2


def test_what_was_never_sent_from_here_is_not_waited_for(tmp_path):
    view.wait_for_close(Storage.open(str(tmp_path)), SiteSpec(), "small/two", print)
