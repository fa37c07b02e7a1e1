"""Wrong input: a sentence, exit status 2, and no training started."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_table


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["model.max_dept=3"], "did you mean `max_depth`?"),
        (["data.target=nope"], "the source has no column `nope`"),
        (["data.target=color", "data.task=regression"], "a regression needs numbers"),
        (["data.split.test=0.0001"], "the test side is empty"),
        (["data.source=/nowhere"], "no such file or directory"),
        (["scale.workers=4", "scale.parallel.tensor=3"], "does not divide workers = 4"),
        (["track.mlflow=http://x"], "not available yet"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_wrong_jobs_exit_2_before_anything_starts(
    heliostat, make_job, tmp_path, verb, settings, sentence
):
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = heliostat(verb, make_job(), "--set", f"storage={tmp_path}/s", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and sentence in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "s" / "runs").exists()


def test_a_file_that_is_no_parquet_exits_2(heliostat, make_job, tmp_path):
    folder = write_table(tmp_path / "data")
    (folder / "part-09.parquet").write_text("not a table, whatever its name says")
    done = heliostat("run", make_job(folder))
    assert done.returncode == 2 and "part-09.parquet: is not a Parquet file" in done.stderr


def test_a_damaged_page_exits_2_naming_file_and_row_group(heliostat, make_job, tmp_path, ray_head):
    """The footer is whole; a page of one row group is not."""
    folder = write_table(tmp_path / "data")
    path = folder / "part-01.parquet"
    place = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = place.data_page_offset
    content[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(content)
    environment = {"RAY_ADDRESS": ray_head.address}
    done = heliostat("run", make_job(folder), "--set", f"storage={tmp_path}/s", env=environment)
    assert done.returncode == 2, done.stderr
    assert f"error: {path}, row group 1: is damaged" in done.stderr
    left = {path.name for path in (tmp_path / "s" / "prepared").iterdir()}
    assert "step" not in done.stderr and left == {".leases"}
    assert "FAILED" in heliostat("status", "--storage", tmp_path / "s").stdout


def test_unknown_verbs_runs_and_arguments_exit_2(heliostat, tmp_path):
    assert heliostat("trian").returncode == 2
    assert heliostat("plan").returncode == 2
    done = heliostat("logs", "nothing", "--storage", tmp_path / "s")
    assert done.returncode == 2 and "no run `nothing` here; there is no run here yet" in done.stderr
    done = heliostat("plan", tmp_path / "no.yaml")
    assert done.returncode == 2 and "no such file" in done.stderr


def test_help_of_every_verb(heliostat):
    from heliostat.cli.main import VERBS

    listed = heliostat("--help").stdout
    for verb in VERBS:
        assert verb in listed
    assert "--resume" in heliostat("run", "--help").stdout


def test_init_drafts_a_job_that_plans(heliostat, table, tmp_path):
    done = heliostat("init", table, "--target", "kind")
    assert done.returncode == 0 and "task: multiclass    # 3 classes" in done.stdout
    (tmp_path / "job.yaml").write_text(done.stdout)
    assert heliostat("plan", tmp_path / "job.yaml").returncode == 0
    done = heliostat("init", table, "--target", "kin")
    assert done.returncode == 2 and "did you mean `kind`?" in done.stderr


def test_a_nested_column_is_refused_by_name(heliostat, tmp_path):
    (tmp_path / "d").mkdir()
    pq.write_table(
        pa.table({"a": [[1, 2], [3]], "late": [True, False]}), tmp_path / "d" / "a.parquet"
    )
    (tmp_path / "job.yaml").write_text(
        f"name: t\ndata: {{source: {tmp_path}/d, target: late, task: binary}}\nmodel: {{kind: tree}}\n"
    )
    done = heliostat("plan", tmp_path / "job.yaml")
    assert done.returncode == 2
    assert (
        "column `a` (list<element: int64>) is nested; give its parts columns of their own, or write `a: ignore`"
        in done.stderr
    )


def test_the_sites_storage_and_limits_stand_where_the_job_has_none(make_job, tmp_path, monkeypatch):
    from heliostat.cli.options import read_job

    site = tmp_path / "site.yaml"
    site.write_text("storage: /somewhere\nlimits: {hours: 3, failures: 1}\n")
    monkeypatch.setenv("HELIOSTAT_SITE", str(site))
    spec = read_job((str(make_job(limits="limits: {hours: 9}")),), ()).spec
    assert (spec.storage, spec.limits.hours, spec.limits.failures) == ("/somewhere", 9, 1)
    assert spec.limits.stall_minutes == 10
