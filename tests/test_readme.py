"""What the README says is so."""

from __future__ import annotations

import re

from heliostat.cli.main import VERBS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [
        text for name, text in re.findall(r"```(\w*)\n(.*?)```", README, re.S) if name == language
    ]


def test_every_command_exists(heliostat):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    for line in lines:
        words = line.split("#")[0].split()
        if words[0] == "make":
            assert f"\n{words[1]}: $(STAMP)" in (ROOT / "Makefile").read_text()
        else:
            assert words[0] == "heliostat" and words[1] in VERBS, line
            told = heliostat(words[1], "--help").stdout
            for option in (word for word in words if word.startswith("--")):
                assert option in told, line


def test_the_job_file_plans_and_its_error_is_told_as_shown(heliostat, flights, tmp_path):
    (job,) = [block for block in blocks("yaml") if "target: late" in block]
    job = job.replace("data/flights/*.parquet", str(flights))
    (tmp_path / "job.yaml").write_text(job)
    assert heliostat("plan", "job.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "job.yaml").write_text(job.replace("dropout", "dropuot"))
    done = heliostat("plan", "job.yaml", cwd=tmp_path)
    (shown,) = [block for block in blocks("") if "dropuot" in block]
    assert done.returncode == 2 and done.stderr == shown


def test_the_site_file_loads(tmp_path):
    from heliostat.spec.load import load_site

    (site,) = [block for block in blocks("yaml") if "clusters:" in block]
    (tmp_path / "site.yaml").write_text(site)
    assert load_site(tmp_path / "site.yaml").clusters["lab"].address == "http://ray-head:8265"
