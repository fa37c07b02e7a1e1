"""A job's own code: what of its folder is taken, and what is refused."""

from __future__ import annotations

import pytest

from heliostat.catalog.code import code_files, copy_code
from heliostat.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own" / "mine").mkdir(parents=True)
    (tmp_path / "own" / "mine" / "net.py").write_text("x = 1\n")
    (tmp_path / "secret.py").write_text("password = 1\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.py").write_text("password = 1\n")
    return tmp_path / "own"


@pytest.mark.parametrize("target", ["../secret.py", "../other"])
def test_a_link_out_of_the_folder_is_refused(folder, target):
    (folder / "more.py").symlink_to(target)
    with pytest.raises(UserError, match="`.*more.py` is a link that leads out of the folder"):
        code_files(folder, ["*.py"])


@pytest.mark.parametrize("target", [".", "..", "../mine", "self"])
def test_a_link_to_where_it_lies_is_refused_or_leads_nowhere(folder, target):
    link = folder / "mine" / "self"
    link.symlink_to(target)
    if target == "self":  # to itself, which is neither a file nor a folder
        assert code_files(folder) == [folder / "mine" / "net.py"]
        return
    with pytest.raises(UserError, match="is a link to a folder that it lies in"):
        code_files(folder)


def test_links_that_stay_inside_are_followed_and_no_other_file_matters(folder, tmp_path):
    (folder / "again").symlink_to("mine")
    (folder / "rows.csv").symlink_to("../secret.py")  # no code: nobody takes it
    files = code_files(folder, ["*.py"])
    assert files == [folder / "again" / "net.py", folder / "mine" / "net.py"]
    copy_code(folder, tmp_path / "copy", ["*.py"])
    assert (tmp_path / "copy" / "again" / "net.py").read_text() == "x = 1\n"
    assert not (tmp_path / "copy" / "again").is_symlink()


def test_links_cannot_make_a_small_folder_endless(folder, monkeypatch):
    monkeypatch.setattr("heliostat.catalog.code.MAX_ENTRIES", 1_000)
    for level in range(30):  # each leads twice to the next
        (folder / f"{level}").mkdir()
        for twin in "ab":
            (folder / f"{level}" / twin).symlink_to(f"../{level + 1}")
    (folder / "30").mkdir()
    with pytest.raises(UserError, match="more than 1,000 files and folders"):
        code_files(folder)
