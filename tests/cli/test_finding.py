"""A command without MODEL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sesurgeon.cli.asked.finding import given_or_latest, latest_augmented, latest_result, latest_trained
from sesurgeon.cli.asked.options import Talking
from sesurgeon.cli.shown.console import reporting
from sesurgeon.errors import UsageError


def make(path: Path, age: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_newest_augmented_model_is_taken(tmp_path: Path) -> None:
    make(tmp_path / "a.se.pt", age=20)
    newest = make(tmp_path / "b.se.pt", age=10)
    make(tmp_path / "plain.pt", age=0)
    (tmp_path / "gone.se.pt").symlink_to("nowhere")
    assert latest_augmented(tmp_path) == newest


def test_a_trained_model_goes_before_a_newer_augmented_one(tmp_path: Path) -> None:
    make(tmp_path / "runs/finetune/one/best.pt", age=30)
    newest = make(tmp_path / "runs/finetune/two/best.pt", age=20)
    make(tmp_path / "runs/finetune/two/last.pt", age=10)
    make(tmp_path / "a.se.pt", age=0)
    assert latest_trained(tmp_path) == newest


def test_without_runs_the_augmented_model_is_taken(tmp_path: Path) -> None:
    augmented = make(tmp_path / "a.se.pt", age=0)
    assert latest_trained(tmp_path) == augmented


def test_what_was_pruned_is_a_result_but_not_to_prune_again(tmp_path: Path) -> None:
    augmented = make(tmp_path / "a.se.pt", age=40)
    assert latest_result(tmp_path) == augmented
    pruned = make(tmp_path / "a.pruned.pt", age=30)
    assert latest_result(tmp_path) == pruned
    best = make(tmp_path / "runs/finetune/one/best.pt", age=20)
    assert latest_result(tmp_path) == best
    pruned = make(tmp_path / "runs/finetune/one/best.pruned.pt", age=10)
    assert latest_result(tmp_path) == pruned
    assert latest_trained(tmp_path) == best


@pytest.mark.parametrize("latest", [latest_augmented, latest_result, latest_trained])
def test_an_empty_folder_is_a_usage_error(latest: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \*\.se\.pt lies in") as caught:
        latest(tmp_path)  # type: ignore[operator]
    assert caught.value.hint is not None
    assert "sesurgeon add-se MODEL" in caught.value.hint


def test_what_was_taken_is_said_and_what_was_given_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.se.pt", age=0)
    with reporting(Talking()) as out:
        assert given_or_latest("timm:resnet18", latest_trained, out.note) == "timm:resnet18"
        assert given_or_latest(None, latest_trained, out.note) == "a.se.pt"
    assert capsys.readouterr().err == "No MODEL given: taking a.se.pt, the newest here.\n"


def test_of_a_run_folder_the_best_network_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs/finetune/one/best.pt", age=0)
    make(tmp_path / "runs/finetune/one/args.yaml", age=0)
    make(tmp_path / "photos/best.pt", age=0)  # not a run: there are no settings
    make(tmp_path / "best.pt", age=0)
    make(tmp_path / "args.yaml", age=0)
    with reporting(Talking()) as out:
        taken = given_or_latest("runs/finetune/one", latest_trained, out.note)
        assert Path(taken) == Path("runs/finetune/one/best.pt")
        assert given_or_latest("photos", latest_trained, out.note) == "photos"
        assert given_or_latest("", latest_trained, out.note) == ""  # an empty variable of the shell
