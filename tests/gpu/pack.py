"""Pack what a PyTorch image lacks to run heliostat: for a GPU machine without a network.

`python -m tests.gpu.pack` writes `dist/gpu/packages.tar.xz`; `tests/gpu/start` begins from it. The
image is one with Python 3.12, torch 2.11 and the usual libraries beside it (numpy, scipy, pandas,
pyarrow, scikit-learn, transformers, click, rich, jinja2, matplotlib, hypothesis, pytest and its
plugins for time limits and processes). Versions are those of `constraints.txt`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUNDLE = ROOT / "dist" / "gpu" / "packages.tar.xz"
MOST_BYTES = 60 * 2**20
PYTHON, ARCHITECTURE, GLIBCS = "3.12", "x86_64", (17, 24, 27, 28, 31, 34)
# With what each needs beside what the image has.
PACKAGES = (
    "ray", "jsonschema", "jsonschema-specifications", "referencing", "rpds-py",
    "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions",
    "ruamel.yaml", "obstore", "skops", "prettytable", "wcwidth",
    "optuna", "alembic", "colorlog", "SQLAlchemy", "Mako", "tqdm",
    "tensorboardX", "xgboost-cpu",
)  # fmt: skip
# Of Ray: what neither trains nor tunes. Its web pages, RLlib and Java are most of it.
LEFT_OUT = (
    "ray/dashboard/client", "ray/rllib", "ray/jars", "ray/serve", "ray/llm", "ray/cpp",
    "ray/_private/runtime_env/agent/thirdparty_files",
)  # fmt: skip


def main() -> None:
    """Download, strip, pack; and tell how large it is."""
    with tempfile.TemporaryDirectory() as scratch:
        wheels, packages = Path(scratch) / "wheels", Path(scratch) / "packages"
        download(wheels)
        for wheel in sorted(wheels.iterdir()):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
        make_executable(packages)
        for name in LEFT_OUT:
            shutil.rmtree(packages / name, ignore_errors=True)
        BUNDLE.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-cJf", BUNDLE, "-C", scratch, "packages"], check=True)
    size = BUNDLE.stat().st_size
    print(f"{BUNDLE.relative_to(ROOT)}: {size / 2**20:.1f} MiB, {len(PACKAGES)} packages")
    print(
        "XGBoost with CUDA does not fit (its wheel alone is 126 MiB): its tests are skipped there"
    )
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES / 2**20:.0f} MiB")


def download(folder: Path) -> None:
    """The wheels of the image's Python, whatever this one is."""
    platforms = [f"--platform=manylinux_2_{glibc}_{ARCHITECTURE}" for glibc in GLIBCS]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", PYTHON, "--implementation=cp", *platforms,
        f"--platform=manylinux2014_{ARCHITECTURE}", f"--platform=manylinux1_{ARCHITECTURE}",
        "--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *PACKAGES,
    ]  # fmt: skip
    subprocess.run(command, check=True)


def make_executable(packages: Path) -> None:
    """The programs among them, whose mode a wheel's archive keeps and `zipfile` does not."""
    for name in ("raylet/raylet", "gcs/gcs_server"):
        (packages / "ray" / "core" / "src" / "ray" / name).chmod(0o755)


if __name__ == "__main__":
    main()
