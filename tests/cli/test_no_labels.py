"""``finetune --distill 1`` on a folder of images without labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.export import load_onnx
from tests.cli.commands import finetune

PLAIN = ("-j", "0", "--device", "cpu")


@pytest.fixture
def photos(workplace: Path) -> Path:
    """photos/ with 18 images, and net.pt without blocks."""
    sesurgeon.save(sesurgeon.remove_se(sesurgeon.load("net.se.pt")), "net.pt")
    (workplace / "photos").mkdir()
    for image in (workplace / "data").rglob("*.png"):
        shutil.copy(image, workplace / "photos" / "-".join(image.relative_to(workplace / "data").parts))
    return workplace


def test_images_alone_are_enough_and_the_run_can_be_lengthened(photos: Path) -> None:
    result = finetune("--data", "photos", "--distill", "1", "--epochs", "1", "--log-with", "none", *PLAIN)
    assert result.exit_code == 0, result.stderr
    assert "photos: 14 training and 4 validation images (20 % held out, seed 42), 2 classes" in result.stderr
    assert "The images have no labels, so the network's own predictions before training" in result.stderr
    before = next(line for line in result.stderr.splitlines() if line.startswith("before training"))
    assert "top-1 100.00 %" in before
    assert "validation images its answer is the one before training" in result.stdout
    assert "Next:    sesurgeon predict runs/finetune/exp/best.pt IMAGES" in result.stdout
    assert not any(line.endswith("  best") for line in result.stderr.splitlines())
    again = finetune("--resume", "--epochs", "2", "--json")
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert [row["epoch"] for row in report["epochs"]] == [-1, 0, 1]
    assert (report["metric"], report["best_epoch"]) == (None, report["epochs"][-1])
    assert json.loads(Path("runs/finetune/exp/metrics.json").read_text())["best"]["epoch"] == 1
    start, best, last = (
        sesurgeon.load(path).state_dict()
        for path in ("net.se.pt", "runs/finetune/exp/best.pt", "runs/finetune/exp/last.pt")
    )
    assert list(start) == list(best) == list(last)
    assert not all(torch.equal(start[name], best[name]) for name in start)
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_commands_without_a_model_take_the_trained_blocks(photos: Path) -> None:
    trained = finetune("--data", "photos", "--distill", "1", "--train", "blocks", "--epochs", "1", "-q", *PLAIN)
    assert trained.exit_code == 0, trained.stderr
    last = sesurgeon.load("runs/finetune/exp/last.pt")
    images = torch.rand(4, 1, 8, 8)
    assert not torch.equal(last(images), sesurgeon.load("net.se.pt")(images))

    def run(*arguments: str) -> None:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.stderr

    run("export", "-o", "net.onnx")
    torch.testing.assert_close(load_onnx("net.onnx")(images), last(images), atol=1e-5, rtol=1e-5)
    for source in ([], ["runs/finetune/exp"]):
        run("adapter", "extract", *source, "-o", "net.adapter.safetensors", "--force")
        run("adapter", "apply", "net.pt", "net.adapter.safetensors", "-o", "again.se.pt", "--force")
        assert torch.equal(sesurgeon.load("again.se.pt")(images), last(images))


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
