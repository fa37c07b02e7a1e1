"""Storage in a real S3 server: its bounded cache, and what a person reads when it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heliostat.errors import StorageError, UserError
from heliostat.storage.cache import cache_folder, local_copy
from heliostat.storage.objects import ObjectPath, as_path
from heliostat.storage.runs import Storage


@pytest.fixture
def bucket(s3_store, monkeypatch, tmp_path):
    for key, value in s3_store.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("HELIOSTAT_CACHE", str(tmp_path / "cache"))
    return ObjectPath("s3://bucket", f"objects/{tmp_path.name}")


def test_the_cache_is_bounded_and_spares_what_is_in_use(bucket, monkeypatch):
    monkeypatch.setenv("HELIOSTAT_CACHE_BYTES", "2500")
    for name in "abc":
        (bucket / name / "x").write_bytes(name.encode() * 1000)
    use = "import sys; from heliostat.storage.cache import local_copy\n"
    use += "from heliostat.storage.objects import as_path\n"
    use += "print(local_copy(as_path(sys.argv[1])))"

    def used_elsewhere(name: str) -> None:
        """Copied by a process that has ended since."""
        subprocess.run([sys.executable, "-c", use, str(bucket / name)], check=True)

    used_elsewhere("a")
    mine = local_copy(bucket / "b")
    other = local_copy(bucket / "c")  # there is room for two: `a` goes, `b` is in use
    assert (mine / "x").read_text() == "b" * 1000 and (other / "x").read_text() == "c" * 1000
    held = sum(path.stat().st_size for path in cache_folder().glob("*/*"))
    assert held == 2000
    (bucket / "d" / "x").write_bytes(b"d" * 3000)
    with pytest.raises(StorageError, match=r"3,000 bytes does not fit.*may hold 2,500"):
        local_copy(bucket / "d")


def test_a_copy_follows_its_source(bucket):
    (bucket / "x").write_bytes(b"one")
    assert (local_copy(bucket) / "x").read_bytes() == b"one"
    (bucket / "x").write_bytes(b"two")
    assert (local_copy(bucket) / "x").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("location", "change", "sentence"),
    [
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch|privileges"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "error sending request"),
        ("s3://key:secret@bucket/x", {}, "credentials do not belong in a job file"),
        ("ftp://bucket/x", {}, "no storage we know"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_in_a_sentence(
    bucket, monkeypatch, location, change, sentence
):
    from heliostat.storage import objects

    objects._store.cache_clear()
    for key, value in change.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=sentence) as caught:
        Storage.open(location)
    objects._store.cache_clear()
    assert "\n" not in str(caught.value) and "secret@" not in str(caught.value)


def test_a_uri_names_what_it_names():
    assert as_path("s3://b/x/y/") == ObjectPath("s3://b", "x/y")
    assert str(as_path("s3://b/x") / "y") == "s3://b/x/y"
    assert as_path("s3://b/x/y.json").stem == "y"
