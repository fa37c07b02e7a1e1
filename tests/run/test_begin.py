"""What is refused before anything is started."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("settings", "environment", "sentence"),
    [
        ((), {"HELIOSTAT_SENT_BY": "9.9.9"}, "heliostat 9.9.9 sent this job to an image with"),
        (("--set", "secrets=[NO_SUCH_TOKEN]"), {}, "NO_SUCH_TOKEN not set in this environment"),
        (("--set", "scale.workers=6400"), {}, "6400 workers x 1 = 6400 CPUs, this machine has"),
    ],
)
def test_what_cannot_begin_here_is_told_before_anything_is_made(
    heliostat, make_job, tmp_path, settings, environment, sentence
):
    done = heliostat(
        "run", make_job(), "--set", f"storage={tmp_path}/s", *settings, env=environment
    )
    assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "s" / "runs").exists()
