"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from heliostat.cli.main import VERBS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return [
        text for name, text in re.findall(r"```(\w*)\n(.*?)```", README, re.S) if name == language
    ]


def test_every_command_exists(heliostat):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    for line in lines:
        words = line.split("#")[0].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}: \$\((STAMP|TOOLS)\)$", MAKEFILE, re.M), line
        elif words[0] in ("python3", ".venv/bin/pip"):
            told = _help_of(words, line)
        else:
            assert words[0].removeprefix(".venv/bin/") == "heliostat", line
            assert words[1] in VERBS, line
            told = heliostat(words[1], "--help").stdout
            for option in (word for word in words if word.startswith("--")):
                assert option in told, line


def _help_of(words: list[str], line: str) -> str:
    """What pip, or a module of Python, says of a command's options."""
    module = words[1:] if words[0] == ".venv/bin/pip" else words[2:]
    name = ["pip", module[0]] if words[0] == ".venv/bin/pip" else module[: 1 + (module[0] == "pip")]
    command = [sys.executable, "-m", *name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, line
    return done.stdout


def test_tables_are_whole():
    for block in re.findall(r"(?:^\|.*\n)+", README, re.M):
        rows = block.splitlines()
        assert re.fullmatch(r"(\|-+)+\|", rows[1]), rows[0]
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(columns) == 1, rows[0]


def test_the_wheel_is_built_as_said_and_holds_the_whole_package(tmp_path):
    (line,) = [line for block in blocks("sh") for line in block.splitlines() if "pip wheel" in line]
    command, name = line.split("#")
    words = [str(tmp_path) if word == "dist" else word for word in command.split()[1:]]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / Path(name.strip()).name) as wheel:
        held = set(wheel.namelist())
        (entry,) = [n for n in held if n.endswith(".dist-info/entry_points.txt")]
        assert "heliostat = heliostat.cli.main:main" in wheel.read(entry).decode()
    package = ROOT / "platform" / "heliostat"
    files = {path for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert {f"heliostat/{path.relative_to(package)}" for path in files} <= held


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
