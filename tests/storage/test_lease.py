"""One writer a run, whoever else tries."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from heliostat.errors import LeaseLostError
from heliostat.storage import lease as lease_module
from heliostat.storage.files import read_json, write_json
from heliostat.storage.lease import Lease, check_token, read_holder


def test_of_many_that_try_at_once_one_gets_it(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: Lease.acquire(tmp_path), range(32)))
    assert sum(lease is not None for lease in leases) == 1


def test_a_released_lease_passes_on_and_fences_the_old_token(tmp_path):
    first = Lease.acquire(tmp_path)
    assert first is not None and Lease.acquire(tmp_path) is None
    first.beat()
    first.release()
    second = Lease.acquire(tmp_path)
    assert second is not None and second.token == first.token + 1
    with pytest.raises(LeaseLostError, match="another process"):
        first.beat()
    check_token(tmp_path, second.token)


def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path):
    code = "import sys, os, signal; from pathlib import Path\n"
    code += "from heliostat.storage.lease import Lease\n"
    code += "assert Lease.acquire(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    holder = read_holder(tmp_path)
    assert holder is not None and holder.pid != os.getpid() and not holder.alive
    assert Lease.acquire(tmp_path) is not None


def test_a_lease_from_elsewhere_lives_as_long_as_its_heartbeat(tmp_path, monkeypatch):
    lease = Lease.acquire(tmp_path)
    path = tmp_path / "00001.json"
    write_json(path, read_json(path) | {"host": "another-machine"})
    assert lease is not None and Lease.acquire(tmp_path) is None
    monkeypatch.setattr(lease_module, "EXPIRY_SECONDS", -1.0)
    assert Lease.acquire(tmp_path) is not None
