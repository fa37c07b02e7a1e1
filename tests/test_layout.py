"""The house: where things lie, how large they are, what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import heliostat
from tests.conftest import ROOT

PACKAGE = ROOT / "platform" / "heliostat"
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_platform_is_a_source_root_and_never_a_package():
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() in ("Linux", "Darwin", "Windows")


def test_public_names():
    names = ["HeliostatError", "JobSpec", "Plan", "Result", "__version__", "load_job", "plan_job"]
    assert heliostat.__all__ == names
    assert all(getattr(heliostat, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute `run_job`"):
        _ = heliostat.run_job


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize(
    "code",
    [
        "import heliostat; heliostat.load_job, heliostat.plan_job, heliostat.Result",
        "from heliostat.cli.main import cli; run = lambda a: cli.main(a, standalone_mode=False); run(['plan', 'JOB'])",
        "from heliostat.cli.main import cli; run = lambda a: cli.main(a, standalone_mode=False); run(['schema'])",
        "from heliostat.cli.main import cli; run = lambda a: cli.main(a, standalone_mode=False); run(['init', 'SOURCE'])",
        "from heliostat.cli.main import cli; run = lambda a: cli.main(a, standalone_mode=False); run(['status', '--storage', 'STORAGE'])",
    ],
)
def test_planning_loads_neither_ray_nor_torch(code, make_job, table, tmp_path):
    for word, value in {"JOB": make_job(), "SOURCE": table, "STORAGE": tmp_path / "s"}.items():
        code = code.replace(f"'{word}'", repr(str(value)))
    code += (
        "\nimport sys\nheavy = {'ray', 'torch', 'xgboost', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    code += "\nsys.exit(f'loaded {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["/".join(("", "work", "")), "../" + "shared/"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.is_file() and name != ".ci/run":
            text = path.read_text(errors="ignore")
            assert not any(word in text for word in words), name
