"""``sesurgeon predict`` from end to end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.finetune import Predictions
from sesurgeon.models import Preprocessing, Provenance, attach_provenance, provenance_of
from tests.cli.commands import rows_of

PLAIN = ("-j", "0", "--device", "cpu")


def predict(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["predict", *PLAIN, *arguments])


def per_cent(probability: float) -> str:
    return f"{100 * probability:.2f} %"


@pytest.fixture
def trained(workplace: Path) -> Path:
    """net.se.pt with names and preprocessing, as a checkpoint of fine-tuning has them."""
    model = sesurgeon.load("net.se.pt")
    preprocessing = Preprocessing((1, 8, 8), (0.5,), (0.25,))
    attach_provenance(
        model, Provenance(provenance_of(model).source, classes=("unten", "上"), preprocessing=preprocessing)
    )
    sesurgeon.save(model, "net.se.pt")
    return workplace


def by_library(images: str, model: str = "net.se.pt") -> Predictions:
    return sesurgeon.predict(sesurgeon.load(model), images, workers=0)


def test_labels_and_probabilities_are_printed(trained: Path) -> None:
    result = predict("net.se.pt", "data/val")
    assert (result.exit_code, result.stderr) == (0, "")
    expected = []
    for image in by_library("data/val").images:
        best, other = image.guesses
        then = f"{other.label} {per_cent(other.probability)}"
        expected.append([str(image.path), best.label, per_cent(best.probability), then])
    assert rows_of(result) == expected
    assert len(expected) == 6
    assert rows_of(predict("net.se.pt", "data/val", "--topk", "1"))[0] == expected[0][:3]


def test_json_is_alone_on_stdout_and_exact(trained: Path) -> None:
    result = predict("net.se.pt", "data/val/up", "data/train/up/000.png", "--json", "-b", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["model"], report["input_size"], report["skipped"]) == ("net.se.pt", [1, 8, 8], [])
    found = by_library("data/val/up")
    assert [image["path"] for image in report["images"][:3]] == [str(image.path) for image in found.images]
    assert report["images"][3]["path"] == "data/train/up/000.png"
    for image, expected in zip(report["images"], found.images, strict=False):
        assert [(guess["label"], guess["index"]) for guess in image["guesses"]] == [
            (guess.label, guess.index) for guess in expected.guesses
        ]
        assert image["guesses"][0]["probability"] == pytest.approx(expected.guesses[0].probability, rel=1e-5)


def test_an_onnx_file_predicts_as_the_network_does(trained: Path) -> None:
    sesurgeon.export_onnx(sesurgeon.load("net.se.pt"), "net.onnx")
    result = predict("net.onnx", "data/val", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    for image, expected in zip(report["images"], by_library("data/val").images, strict=True):
        assert [guess["label"] for guess in image["guesses"]] == [guess.label for guess in expected.guesses]
        assert [guess["probability"] for guess in image["guesses"]] == pytest.approx(
            [guess.probability for guess in expected.guesses], rel=1e-4
        )


def test_without_a_model_the_newest_is_taken(trained: Path) -> None:
    for arguments in (["data/val/up/000.png"], ["data/val/up", "data/val/down"]):
        result = predict(*arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == "No MODEL given: taking net.se.pt, the newest here.\n"
        assert rows_of(result)[0][0] == "data/val/up/000.png"
    best = trained / "runs/finetune/exp/best.pt"
    best.parent.mkdir(parents=True)
    (trained / "net.se.pt").rename(best)
    assert "taking runs/finetune/exp/best.pt" in predict("data/val").stderr


def test_a_model_that_says_nothing_gets_a_note(workplace: Path) -> None:
    result = predict("net.se.pt", "data/val")
    assert result.exit_code == 0, result.stderr
    said = "net.se.pt does not say how images are prepared for it (--preprocessing does): seen as 1x8x8.\n"
    assert result.stderr == said
    assert {row[1] for row in rows_of(result)} <= {"0", "1"}
    assert predict("net.se.pt", "data/val", "--quiet").stderr == ""


def test_a_state_dict_is_read_as_elsewhere(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from torch import nn\ndef make(k=2):\n    return nn.Sequential(nn.Conv2d(1, k, 8), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    torch.save({"0.weight": torch.randn(3, 1, 8, 8), "0.bias": torch.tensor([0.0, 99.0, 0.0])}, "w.pth")
    result = predict("w.pth", "data/val", "--arch", "factory:mine:make", "--model-kwargs", "k=3", "--json")
    assert result.exit_code == 0, result.stderr
    assert {image["guesses"][0]["label"] for image in json.loads(result.stdout)["images"]} == {"1"}


def test_bad_images_are_named_at_the_end_and_the_rest_is_predicted(trained: Path) -> None:
    Path("data/val/torn.png").write_bytes(b"\x89PNG\r\n")
    result = predict("net.se.pt", "data/val", "--quiet")
    assert result.exit_code == 1
    assert len(rows_of(result)) == 6
    assert result.stderr.startswith("Error: 1 of 7 images cannot be read:\n  data/val/torn.png: ")
    report = json.loads(predict("net.se.pt", "data/val", "--json").stdout)
    assert (len(report["images"]), report["skipped"][0]["path"]) == (6, "data/val/torn.png")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf8_are_printed(trained: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("L", (8, 8)).save(name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert rows_of(predict("net.se.pt", name))[0][0] == r"caf\xe9.png"
    assert json.loads(predict("net.se.pt", name, "--json").stdout)["images"][0]["path"] == name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.se.pt"], 2, "No images given"),
        ([], 2, "No images given"),
        (["net.se.pt", "nowhere"], 1, "There is no such file or folder: nowhere"),
        (["net.se.pt", "empty"], 1, "No image found in empty"),
        (["net.se.pt", "net.se.pt"], 1, "1 of 1 images cannot be read"),
        (["missing.pt", "data"], 3, "missing.pt"),
        (["missing.onnx", "data"], 3, "missing.onnx"),
        (["net.onnx", "data", "--arch", "timm:resnet18"], 2, "--arch cannot be used with an ONNX file"),
        (["net.se.pt", "data", "--topk", "0"], 2, "--topk"),
        (["net.se.pt", "data", "--device", "tpu"], 2, "tpu"),
    ],
)
def test_bad_input_is_told(arguments: list[str], code: int, message: str, workplace: Path) -> None:
    Path("empty").mkdir()
    result = predict(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("given", ["photo", "data/vla", "modle.pt", "gone.png"])
def test_what_is_alone_and_not_there_is_named(given: str, workplace: Path) -> None:
    result = predict(given)
    assert result.exit_code == 1
    assert result.stderr == f"Error: There is no such file or folder: {given}.\n"


@pytest.mark.parametrize("given", ["net.se.pt", "timm:test_resnet"])
def test_a_model_alone_wants_images(given: str, workplace: Path) -> None:
    assert "No images given." in predict(given).stderr
