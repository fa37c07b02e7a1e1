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


def test_of_many_that_try_at_once_one_gets_it(storage_folder):
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: Lease.acquire(storage_folder), range(32)))
    assert sum(lease is not None for lease in leases) == 1


def test_a_released_lease_passes_on_and_fences_the_old_token(storage_folder):
    first = Lease.acquire(storage_folder)
    assert first is not None and Lease.acquire(storage_folder) is None
    first.beat()
    first.release()
    second = Lease.acquire(storage_folder)
    assert second is not None and second.token == first.token + 1
    with pytest.raises(LeaseLostError, match="another process"):
        first.beat()
    check_token(storage_folder, second.token)


def test_the_lease_of_a_killed_process_is_free_at_once(storage_folder):
    code = "import sys, os, signal\n"
    code += "from heliostat.storage.lease import Lease\n"
    code += "from heliostat.storage.objects import as_path\n"
    code += "assert Lease.acquire(as_path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(storage_folder)], check=False)
    holder = read_holder(storage_folder)
    assert holder is not None and holder.pid != os.getpid() and not holder.alive
    assert Lease.acquire(storage_folder) is not None


def test_a_lease_from_elsewhere_lives_as_long_as_its_heartbeat(storage_folder, monkeypatch):
    lease = Lease.acquire(storage_folder)
    path = storage_folder / "00001.json"
    write_json(path, read_json(path) | {"host": "another-machine"})
    assert lease is not None and Lease.acquire(storage_folder) is None
    monkeypatch.setattr(lease_module, "EXPIRY_SECONDS", -1.0)
    assert Lease.acquire(storage_folder) is not None
