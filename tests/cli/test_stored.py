"""Where runs are found: beside their job file, by their name, from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from heliostat.cli.main import cli
from heliostat.cli.stored import run_to_resume, stored_job
from heliostat.errors import UserError
from heliostat.spec.load import load_job
from heliostat.storage.files import write_json
from heliostat.storage.runs import Storage, storage_of

RESULT = {"name": "small", "run": "small/x", "objective": {"metric": "auc"}, "metrics": {}}


def begun(storage: Storage, run_id: str, status: str) -> Path:
    folder = storage.run("small", run_id).path
    assert isinstance(folder, Path)
    folder.mkdir(parents=True)
    write_json(folder / "identity.json", {"identity": "x", "fixed": {}, "job": {}})
    write_json(folder / "state.json", {"status": status})
    if status == "SUCCEEDED":
        write_json(folder / "result.json", RESULT)
    return folder


@pytest.fixture
def place(make_job, monkeypatch, tmp_path) -> Storage:
    """The storage of a job, seen from another folder."""
    job = load_job(make_job())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HELIOSTAT_SITE", str(tmp_path / "no-site.yaml"))
    assert storage_of(job) == str(tmp_path / "runs")
    return Storage.open(storage_of(job))


def told(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    return done.output + str(done.exception or "")


def test_a_name_is_the_latest_run_or_of_a_model_the_latest_that_succeeded(place):
    for run_id, status in (("a", "SUCCEEDED"), ("b", "SUCCEEDED"), ("c", "STOPPED")):
        begun(place, run_id, status)
    assert place.find("small").run_id == "c"
    assert place.find_model("small").run_id == "b"
    assert place.find_model("small/c").run_id == "c"  # as it is asked for
    for run_id in "ab":
        (place.run("small", run_id).path / "result.json").unlink()
    with pytest.raises(
        UserError, match=r"no run of `small` has succeeded; small/c, the latest, is"
    ):
        place.find_model("small")


def test_verbs_say_where_they_looked_and_make_nothing(place, tmp_path):
    begun(place, "a", "STOPPED")
    here = tmp_path / "elsewhere" / "runs"
    for words in (("status", "small"), ("logs", "small"), ("stop", "small"), ("report", "small"),
                  ("predict", "small", "--data", "x", "--out", "y"), ("run", "--resume", "small"),
                  ("run", "--resume"), ("promote", "small", "m@p")):  # fmt: skip
        assert str(here) in told(*words) and "--storage" in told(*words), words
    assert "small/a" in told("status", "--storage", place.root)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert "Missing argument" in told("run")


def test_a_run_is_resumed_by_the_job_that_it_has_kept(place, make_job, tmp_path):
    folder = begun(place, "a", "STOPPED")
    text = make_job().read_text() + f"code: {{path: {tmp_path}/gone}}\n"
    (folder / "job.yaml").write_text(text)
    (folder / "code").mkdir()
    found = run_to_resume("small", str(place.root))
    assert found.reference == run_to_resume("", str(place.root)).reference == "small/a"
    job = stored_job(found, ("train.rounds=9",))
    assert storage_of(job) == str(place.root) and job.spec.train.rounds == 9
    assert job.spec.code is not None and job.spec.code.path == str(folder / "code")
    assert found.arguments == f"small/a --storage {place.root}"
    (folder / "job.yaml").unlink()
    with pytest.raises(UserError, match="has kept no job file"):
        stored_job(found, ())
