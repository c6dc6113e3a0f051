"""``finetune --distill 1`` on a folder of images without labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app

PLAIN = ("-j", "0", "--device", "cpu")


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["finetune", *arguments])


@pytest.fixture
def photos(workplace: Path) -> Path:
    """photos/ with 18 images."""
    (workplace / "photos").mkdir()
    for image in (workplace / "data").rglob("*.png"):
        shutil.copy(image, workplace / "photos" / "-".join(image.relative_to(workplace / "data").parts))
    return workplace


def test_images_alone_are_enough_and_the_run_can_be_lengthened(photos: Path) -> None:
    result = finetune("--data", "photos", "--distill", "1", "--epochs", "1", "--log-with", "none", *PLAIN)
    assert result.exit_code == 0, result.stderr
    assert "photos: 14 training and 4 validation images (20% held out, seed 42), 2 classes" in result.stderr
    assert "The images have no labels. What the network said of them before training stands in" in result.stderr
    before = next(line for line in result.stderr.splitlines() if line.startswith("before training"))
    assert "top-1 100.00 %" in before
    assert "Next:    sesurgeon predict runs/finetune/exp/last.pt IMAGES" in result.stdout
    again = finetune("--resume", "--epochs", "2", "--json")
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert [row["epoch"] for row in report["epochs"]] == [-1, 0, 1]
    start, last = (sesurgeon.load(path).state_dict() for path in ("net.se.pt", "runs/finetune/exp/last.pt"))
    assert list(start) == list(last)
    assert not all(torch.equal(start[name], last[name]) for name in start)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--distill", "0.9"], 1, "photos has no class folders"),
        (["--distill", "1", "--balanced-sampling"], 2, "no labels, which balanced_sampling needs"),
        (["--distill", "1", "--multi-label"], 2, "are read from a manifest"),
    ],
)
def test_what_needs_labels_is_told_and_leaves_nothing(
    photos: Path, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(photos.rglob("*"))
    result = finetune("--data", "photos", *arguments, *PLAIN)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert message in result.stderr
    assert sorted(photos.rglob("*")) == before
