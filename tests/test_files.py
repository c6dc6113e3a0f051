"""Replacing a file: whole or not at all, and what is known of it besides its content stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sesurgeon.errors import OutputError
from sesurgeon.files import atomic_write, check_writable, remove_drafts


def write(path: Path, text: str = "new") -> None:
    with atomic_write(path) as temporary:
        assert (temporary.suffix, temporary.parent) == (path.suffix, Path(os.path.realpath(path)).parent)
        temporary.write_text(text)


def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    write(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("net.pt", "epoch-3.pt"):
        with atomic_write(tmp_path / name) as temporary:
            pass
        temporary.touch()  # as a process that is killed leaves it
    own = {
        "net.pt",
        "epoch-3.pt",
        ".net.pt",
        ".net-notes.pt",
        ".net-0123abcd.txt",
        ".my-0123abcd.pt",
        ".net-0123abcde.pt",
    }
    for name in own:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == len(own) + 2
    remove_drafts(tmp_path, ["net.pt", "epoch-*.pt"])
    assert {path.name for path in tmp_path.iterdir()} == own


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_not_replaced(linked: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    os.mkfifo(tmp_path / "pipe")
    path.symlink_to("pipe") if linked else (tmp_path / "pipe").rename(path)
    with pytest.raises(OutputError, match=r"net\.pt is not a regular file"):
        check_writable(path, force=True)
    with pytest.raises(OutputError, match="is not a regular file"):
        write(path)
    assert path.is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_new_file_has_the_permissions_that_the_user_set(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "net.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net.pt").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few make links")
@pytest.mark.parametrize("there", [True, False], ids=["file", "nothing yet"])
def test_what_a_link_points_to_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "one.pt", tmp_path / "net.pt"
    if there:
        target.write_text("old")
    link.symlink_to(Path("store") / "one.pt")
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["net.pt", "store", "one.pt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few make links")
def test_a_link_into_a_folder_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "net.pt").symlink_to(tmp_path / "store" / "one.pt")
    with pytest.raises(OutputError, match=r"The folder .*store of the output net\.pt does not exist"):
        check_writable(tmp_path / "net.pt")
