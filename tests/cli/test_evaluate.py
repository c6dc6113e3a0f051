"""``sesurgeon evaluate`` from end to end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.cli.shown.scoring import class_table
from sesurgeon.finetune import Evaluation
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, provenance_of

DATA = ("--data", "data", "-j", "0", "--device", "cpu")


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def test_scores_and_classes_are_printed(workplace: Path) -> None:
    result = evaluate(*DATA)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [
        "No MODEL given: taking net.se.pt, the newest here.",
        "The model does not say how its images were normalised: mean 0.5 and std 0.5 are used. "
        "If they were others, say so by --preprocessing (in Python: load(..., preprocessing=)).",
        "The model does not name its classes: its outputs are taken to be down, up, in this order.",
    ]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    found = sesurgeon.evaluate(sesurgeon.load("net.se.pt"), "data", workers=0)
    correct = [score.correct for score in found.per_class]
    assert rows == [
        ["top-1", f"{found.top1:.2f} %"],
        ["top-2", "100.00 %"],
        ["loss", f"{found.loss:.4f}"],
        ["images", "6"],
        ["input size", "1 x 8 x 8"],
        ["down", "3", str(correct[0]), f"{100 * correct[0] / 3:.2f} %"],
        ["up", "3", str(correct[1]), f"{100 * correct[1] / 3:.2f} %"],
    ]


def test_json_is_alone_on_stdout_and_exact(workplace: Path) -> None:
    result = evaluate("net.se.pt", *DATA, "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    found = sesurgeon.evaluate(sesurgeon.load("net.se.pt"), "data", workers=0)
    assert (report["top1"], report["top5"], report["loss"], report["k"]) == (found.top1, 100.0, found.loss, 2)
    assert (report["model"], report["images"], report["input_size"]) == ("net.se.pt", 6, [1, 8, 8])
    assert [score["name"] for score in report["per_class"]] == ["down", "up"]


def test_the_newest_run_goes_before_the_augmented_network(workplace: Path) -> None:
    best = workplace / "runs/finetune/exp/best.pt"
    best.parent.mkdir(parents=True)
    (workplace / "net.se.pt").rename(best)
    sesurgeon.save(nn.Flatten(), workplace / "newer.se.pt")
    result = evaluate(*DATA)
    assert result.exit_code == 0, result.stderr
    assert "taking runs/finetune/exp/best.pt" in result.stderr


def test_the_share_that_was_held_out_is_taken_again(workplace: Path, images: Callable[..., Path]) -> None:
    images(workplace / "photos", ("down", "up"), 10)
    trained = CliRunner().invoke(
        app, ["finetune", "--data", "photos", "--epochs", "1", "-j", "0", "--val-split", "0.3", "--device", "cpu"]
    )
    assert trained.exit_code == 0, trained.stderr
    report = json.loads(evaluate("--data", "photos", "-j", "0", "--json").stdout)
    assert (report["images"], report["val_split"]) == (6, 0.3)
    assert json.loads(evaluate("net.se.pt", "--data", "photos", "-j", "0", "--json").stdout)["images"] == 20


def test_of_an_onnx_file_too(workplace: Path, images: Callable[..., Path]) -> None:
    photos = str(images(workplace / "photos", ("down", "up"), 10))
    record = {"command": "finetune", "data": photos, "val_split": 0.3, "seed": 7, "val_images": 6, "val_digest": "x"}
    model = sesurgeon.load("net.se.pt")
    provenance = Provenance(Source("module"), ("down", "up"), preprocessing=Preprocessing((1, 8, 8), (0.5,), (0.25,)))
    attach_provenance(model, replace(provenance, history=(record,)))
    sesurgeon.export_onnx(model, "net.onnx", verify=False)
    results = [evaluate("net.onnx", "--data", data, "-j", "0", "--json") for data in ("photos", "data")]
    found = [json.loads(result.stdout) for result in results]
    assert [(report["images"], report["val_split"]) for report in found] == [(6, 0.3), (6, None)]
    assert ["with other images held out" in result.stderr for result in results] == [True, False]
    assert str(workplace).encode() not in Path("net.onnx").read_bytes()


def test_an_onnx_file_is_measured_as_the_network_was(workplace: Path) -> None:
    model = sesurgeon.load("net.se.pt")
    preprocessing = Preprocessing((1, 8, 8), (0.5,), (0.25,))
    attach_provenance(model, Provenance(Source("module"), classes=("up", "down"), preprocessing=preprocessing))
    sesurgeon.export_onnx(model, "net.onnx")
    found = sesurgeon.evaluate(model, "data", workers=0)

    result = evaluate("net.onnx", *DATA, "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["top1"] == found.top1
    assert report["loss"] == pytest.approx(found.loss, rel=1e-5)
    assert [(score["name"], score["correct"]) for score in report["per_class"]] == [
        (score.name, score.correct) for score in found.per_class
    ]


def test_options_for_reading_modules_are_refused_for_onnx_files(workplace: Path) -> None:
    result = evaluate("net.onnx", *DATA, "--arch", "timm:resnet18", "--trust-pickle")
    assert result.exit_code == 2
    assert "--arch, --trust-pickle cannot be used with an ONNX file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.se.pt"], 2, "--data"),
        (["net.se.pt", *DATA, "--on-bad-image", "ignore"], 2, "'ignore' is not one of"),
        (["net.se.pt", *DATA, "--device", "tpu"], 2, "tpu"),
        (["missing.pt", *DATA], 3, "missing.pt"),
        (["missing.onnx", *DATA], 3, "missing.onnx"),
        (["torn.onnx", *DATA], 3, "onnxruntime cannot read torn.onnx"),
        (["net.se.pt", "--data", "nowhere"], 1, "The data folder nowhere does not exist"),
        (["net.se.pt", "--data", "three", "-j", "0"], 1, "3 classes, the model has 2 outputs"),
        (["net.se.pt", *DATA, "--img-size", "0"], 2, "greater than or equal to"),
    ],
)
def test_bad_input_is_told(
    arguments: list[str], code: int, message: str, workplace: Path, images: Callable[..., Path]
) -> None:
    images(workplace / "three", ("a", "b", "c"), 1)
    (workplace / "torn.onnx").write_bytes(b"\x08\x07no protobuf")
    result = evaluate(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_class_that_the_network_does_not_know_is_named(workplace: Path) -> None:
    model = sesurgeon.load("net.se.pt")
    attach_provenance(model, Provenance(provenance_of(model).source, classes=("down", "left")))
    sesurgeon.save(model, "net.se.pt")
    result = evaluate(*DATA)
    assert result.exit_code == 1
    assert "does not know these classes of the data: up" in result.stderr


def test_of_many_classes_the_worst_are_listed() -> None:
    labels = torch.arange(30).repeat(2)
    predictions = torch.where(torch.arange(60) < 30, labels, labels % 29 + 1)  # half of them wrong, but for class 0
    predictions[[0, 30]] = 0
    names = {index: f"c{index:02}" for index in range(30)}
    found = Evaluation(names, 30, 5, labels, predictions, labels == predictions, torch.zeros(60))

    few, all_of_them = text_of(found, all_classes=False), text_of(found, all_classes=True)
    assert [name for name in names.values() if name in all_of_them] == list(names.values())
    assert len([name for name in names.values() if name in few]) == 20
    assert "c00" not in few
    assert few.startswith("The 20 worst of 30 classes")


def text_of(found: Evaluation, *, all_classes: bool) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(class_table(found, all_classes=all_classes))
    return console.file.getvalue()  # type: ignore[attr-defined]
