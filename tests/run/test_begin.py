"""What is refused before anything is started."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("settings", "environment", "sentence"),
    [
        ((), {"HELIOSTAT_SENT_BY": "9.9.9"}, "heliostat 9.9.9 sent this job to an image with"),
        (("--set", "secrets=[NO_SUCH_TOKEN]"), {}, "NO_SUCH_TOKEN not set in this environment"),
    ],
)
def test_another_version_and_a_missing_secret_are_told(
    heliostat, make_job, tmp_path, settings, environment, sentence
):
    done = heliostat(
        "run", make_job(), "--set", f"storage={tmp_path}/s", *settings, env=environment
    )
    assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "s" / "runs").exists()
