"""An ONNX file and its weights beside it: what is there when, and what stays when writing fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sesurgeon.errors import OutputError, VerificationError
from sesurgeon.export import check_onnx_path
from sesurgeon.export.onnx_files import onnx_draft


def write(path: Path, weights: str, *, apart: bool = True, right: bool = True) -> None:
    """A file that names another, with ``weights`` in it; or one file. What is not right is refused."""
    with onnx_draft(path, force=True) as (draft, data):
        draft.write_text(data.name if apart else weights)
        if apart:
            data.write_text(weights)
        if not right:
            raise VerificationError("It computes something else.")


def weights_of(path: Path) -> str:
    return path.with_name(path.read_text()).read_text()


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_pair_has_the_usual_names_and_one_that_replaces_it_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for weights, data in (("first", "net.onnx.data"), ("second", "net.onnx.2.data"), ("third", "net.onnx.data")):
        write(path, weights)
        assert weights_of(path) == weights
        assert names(tmp_path) == sorted(["net.onnx", data])


def test_behind_a_link_the_weights_lie_beside_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "net.onnx"
    link.symlink_to(tmp_path / "there" / "their.onnx")
    for weights in ("first", "second"):
        write(link, weights)
        assert weights_of(tmp_path / "there" / "their.onnx") == weights
    assert (link.is_symlink(), names(tmp_path), len(names(tmp_path / "there"))) == (True, ["net.onnx", "there"], 2)


def test_one_file_that_replaces_a_pair_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write(path, "first")
    write(path, "second", apart=False)
    assert (path.read_text(), names(tmp_path)) == ("second", ["net.onnx"])


def test_what_belongs_to_others_stays(tmp_path: Path) -> None:
    others = ["my.net.onnx.data", "net.onnx.2", "net.onnx.old.data", "net_onnx.data", "other.onnx.data"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "net.onnx.data").mkdir()
    check_onnx_path(tmp_path / "net.onnx")
    write(tmp_path / "net.onnx", "first")
    assert names(tmp_path) == sorted([*others, "net.onnx", "net.onnx.2.data", "net.onnx.data"])


@pytest.mark.parametrize("data", ["net.onnx.data", "net.onnx.2.data"])
def test_weights_are_replaced_by_force_alone(tmp_path: Path, data: str) -> None:
    (tmp_path / data).touch()
    with pytest.raises(OutputError, match=f"{data} exists already"):
        check_onnx_path(tmp_path / "net.onnx")
    check_onnx_path(tmp_path / "net.onnx", force=True)


# the disk's own words: two contents are flushed, the weights and the file; and there are three renames
@pytest.mark.parametrize(
    ("call", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2), ("replace", 3)]
)
@pytest.mark.parametrize("before", [True, False], ids=["replacing", "new"])
def test_wherever_writing_fails_the_pair_before_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, before: bool
) -> None:
    path = tmp_path / "net.onnx"
    if before:
        write(path, "first")
    kept, real, calls = names(tmp_path), getattr(os, call), 0

    def fails(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= number:  # and then for good
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OutputError, match="No space left"):
        write(path, "second")
    assert calls == number
    assert names(tmp_path) == kept
    assert not before or weights_of(path) == "first"


def test_a_draft_that_is_refused_leaves_the_pair_before(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write(path, "first")
    with pytest.raises(VerificationError):
        write(path, "second", right=False)
    assert (weights_of(path), names(tmp_path)) == ("first", ["net.onnx", "net.onnx.data"])
