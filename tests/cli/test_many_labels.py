"""Several labels per image, from the command line: train, measure, predict, ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sesurgeon
from sesurgeon.cli.shown.scoring import gain
from sesurgeon.finetune import EpochRow, Evaluation, MultiLabelEvaluation
from sesurgeon.models import Preprocessing, attach_provenance, provenance_of
from sesurgeon.models.provenance import Provenance
from tests.cli.commands import rows_of, run

PLAIN = ("-j", "0", "--device", "cpu")


@pytest.fixture
def labelled(workplace: Path) -> Path:
    """labels.csv in the working folder: an image of up shows up, one of down shows down and, now and then, odd."""
    lines = ["path\tlabel\tsplit"]
    for image in sorted((workplace / "data").rglob("*.png")):
        labels = [image.parent.name] * (image.parent.name == "down" or image.stem != "001")
        labels += ["odd"] * (int(image.stem) % 2)
        lines.append(f"{image.relative_to(workplace)}\t{'|'.join(labels)}\t{image.parent.parent.name}")
    (workplace / "labels.tsv").write_text("\n".join(lines))
    return workplace


@pytest.fixture
def biased(labelled: Path) -> Path:
    """net.se.pt gives several labels, whatever it sees: down and up in this order, or none of them in none.se.pt."""
    model = sesurgeon.load("net.se.pt")
    source, preprocessing = provenance_of(model).source, Preprocessing((1, 8, 8), (0.5,), (0.25,))
    known = Provenance(source, ("down", "up"), multi_label=True, preprocessing=preprocessing)
    attach_provenance(model, known)
    with torch.no_grad():
        model[4].weight.zero_()
        for name, bias in (("none", [-1.0, -2.0]), ("net", [2.0, 1.0])):
            model[4].bias.copy_(torch.tensor(bias))
            sesurgeon.save(model, f"{name}.se.pt")
    return labelled


def test_the_outcome_calls_map_by_its_name() -> None:
    before, after = (
        EpochRow(epoch, "all", 0.5, {"loss": 0.5, "map": 50.0 + epoch, "f1": 0.0}, 1e-3) for epoch in (0, 9)
    )
    assert gain(before, after, "map") == "mAP rose by 9.00 points"
    after = EpochRow(9, "all", 0.5, {"loss": 0.25, "map": 59.0, "f1": 0.0}, 1e-3)
    assert gain(before, after, "f1") == "F1 stayed the same and the validation loss fell by 0.2500"


def test_top_5_of_three_classes_is_called_top_3() -> None:
    before, after = (EpochRow(epoch, "all", 0.5, {"loss": 0.5, "top5": 90.0 + epoch}, 1e-3) for epoch in (0, 9))
    labels = torch.tensor([0, 1, 2])
    found = Evaluation({0: "a", 1: "b", 2: "c"}, 3, 3, labels, labels, labels >= 0, torch.zeros(3))
    assert gain(before, after, "top5", found) == "Top-3 rose by 9.00 points"


def test_a_network_is_trained_and_measured_without_being_told_again(labelled: Path) -> None:
    result = run(
        "finetune", "net.se.pt", "--data", "labels.tsv", "--multi-label", "--epochs", "2", "--log-with", "none", *PLAIN
    )
    assert result.exit_code == 0, result.stderr
    assert "with 2 outputs is replaced by a new one for 3 classes" in result.stderr
    before, first, second = (line for line in result.stderr.splitlines() if "val loss" in line)
    assert all(" mAP " in line and "top-1" not in line for line in (before, first, second))
    header = next(line for line in result.stdout.splitlines() if "kept as" in line)
    assert [cell.strip() for cell in header.split("┃")[2:-2]] == ["epoch", "val loss", "mAP", "F1"]
    measured = run("evaluate", "--data", "labels.tsv", *PLAIN, "--json")
    assert measured.exit_code == 0, measured.stderr
    report = json.loads(measured.stdout)
    best = json.loads((labelled / "runs/finetune/exp/metrics.json").read_text())["best"]
    assert {name: report[name] for name in ("loss", "map", "f1")} == {
        name: best[f"eval_{name}"] for name in ("loss", "map", "f1")
    }
    assert [score["name"] for score in report["per_class"]] == ["down", "odd", "up"]
    by_library = sesurgeon.evaluate(sesurgeon.load("runs/finetune/exp/best.pt"), "labels.tsv", workers=0)
    assert isinstance(by_library, MultiLabelEvaluation)
    cells = [[score.name, str(score.images), f"{score.average_precision:.2f} %", f"{score.f1:.2f} %"]
             for score in by_library.per_class]  # fmt: skip
    printed = rows_of(run("evaluate", "--data", "labels.tsv", *PLAIN))
    assert printed[0] == ["mAP", f"{by_library.scores()['map']:.2f} %"]
    assert printed[-3:] == cells


def test_predictions_are_all_labels_above_a_half(biased: Path) -> None:
    two, none = (run("predict", model, "data/val/up/000.png", *PLAIN) for model in ("net.se.pt", "none.se.pt"))
    assert rows_of(two) == [["data/val/up/000.png", "down", "88.08 %", "up 73.11 %"]]
    assert rows_of(none) == [["data/val/up/000.png", "no label", ""]]
    report = json.loads(run("predict", "none.se.pt", "data/val/up", *PLAIN, "--json").stdout)
    assert (report["multi_label"], [image["guesses"] for image in report["images"]]) == (True, [[], [], []])
    asked = json.loads(run("predict", "none.se.pt", "data/val/up/000.png", "--topk", "1", *PLAIN, "--json").stdout)
    [guess] = asked["images"][0]["guesses"]
    assert (guess["label"], guess["probability"]) == ("down", pytest.approx(0.26894, abs=1e-5))


def test_an_onnx_file_knows_it_too(biased: Path) -> None:
    sesurgeon.export_onnx(sesurgeon.load("net.se.pt"), "net.onnx")
    assert rows_of(run("predict", "net.onnx", "data/val/up/000.png", *PLAIN)) == [
        ["data/val/up/000.png", "down", "88.08 %", "up 73.11 %"]
    ]


def test_int8_is_calibrated_on_such_images(biased: Path) -> None:
    result = run("export", "net.se.pt", "--int8", "--calib", "labels.tsv")
    assert result.exit_code == 0, result.stderr
    assert "top-1 agreement" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["finetune", "net.se.pt", "--data", "data", "--multi-label"], 2, "which data is not"),
        (["finetune", "net.se.pt", "--data", "labels.tsv", "--multi-label", "--eval-metric", "top1"], 2, "map, f1"),
        (["finetune", "net.se.pt", "--data", "data", "--eval-metric", "map"], 2, "top1, top5"),
        (["finetune", "net.se.pt", "--data", "labels.tsv", "--multi-label", "--balanced-sampling"], 2, "be off with"),
        (["finetune", "net.se.pt", "--data", "data"], 2, "Go on with it by --multi-label"),
        (["evaluate", "net.se.pt", "--data", "data"], 2, "are read from a manifest"),
    ],
)
def test_what_does_not_go_together_is_told_and_leaves_nothing(
    biased: Path, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(biased.rglob("*"))
    result = run(*arguments, *PLAIN)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert message in result.stderr
    assert sorted(biased.rglob("*")) == before
