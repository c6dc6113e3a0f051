"""A folder of everything that people's folders hold: it trains, and says what it did with each."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock

import sesurgeon
from tests.cli.commands import run

ODD = ("猫", "dogs ", "only one")
SETTINGS = ("--epochs", "1", "--freeze-epochs", "0", "--img-size", "8", "-j", "0", "--device", "cpu")
NOTES = [
    "Ignored, because their names are not those of images: photos/dogs /notes.txt.",
    "Converted when read: 1 CMYK image (to the model's colours), 1 16-bit image (to its upper 8 bits), "
    "1 transparent image (laid over white unless the model takes transparency).",
    "1 image is less than 8 pixels wide or high, and used anyway: photos/dogs /dot.png.",
    "Class names that begin or end with a space keep it: 'dogs '.",
    "Classes with a single image, trained on but not evaluated: only one.",
]


@pytest.fixture
def photos(workplace: Path, images: Callable[[Path, Sequence[str], int], Path]) -> Path:
    """The working folder with photos/: two classes of 8 images, one of them torn, and a class with one image."""
    root = images(workplace / "photos", ODD, 5)
    cats, dogs, single = (root / name for name in ODD)
    for image in sorted(single.iterdir())[1:]:
        image.unlink()
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 65536, (9, 12)).astype(np.uint16)).save(cats / "sixteen bits.png")
    Image.fromarray(noise.integers(0, 256, (9, 12, 4)).astype(np.uint8), "RGBA").save(cats / "透明.png")
    Image.fromarray(noise.integers(0, 256, (40, 30, 4)).astype(np.uint8), "CMYK").save(cats / "print.jpg")
    Image.new("RGB", (1, 1), "red").save(dogs / "dot.png")
    Image.fromarray(noise.integers(0, 256, (40, 30)).astype(np.uint8)).save(dogs / "whole.jpg")
    (dogs / "torn.jpg").write_bytes((dogs / "whole.jpg").read_bytes()[:400])
    (dogs / "notes.txt").write_text("no image")
    return workplace


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def network(request: pytest.FixtureRequest, photos: Path) -> str:
    return make_network(request.param, photos / "any.se.pt")


def make_network(channels: int, path: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = nn.Conv2d(channels, 8, 3, padding=1)
        model = nn.Sequential(stem, BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    sesurgeon.save(sesurgeon.add_se(model, example_inputs=torch.randn(2, channels, 8, 8)), path)
    return str(path)


def test_it_trains_and_says_what_became_of_each(network: str) -> None:
    result = run("finetune", network, "--data", "photos", *SETTINGS, "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["classes"] == sorted(ODD)
    assert [(image["path"], "truncated" in image["reason"]) for image in report["skipped"]] == [
        ("photos/dogs /torn.jpg", True)
    ]
    assert report["ignored"] == ["photos/dogs /notes.txt"]
    assert report["notes"][: len(NOTES)] == NOTES
    assert report["images"] == {"train": 13, "val": 3}  # 7 of dogs and 8 of cats, of which 1 and 2 are held out; 1
    assert np.isfinite([row["eval_loss"] for row in report["epochs"]]).all()
    assert {score["name"]: score["images"] for score in report["per_class"]} == {"dogs ": 1, "only one": 0, "猫": 2}
    assert "torn.jpg (" in Path(report["folder"], "report.md").read_text(encoding="utf-8").replace("\\", "")
    for told in (*NOTES, "1 unreadable image is left out:\n  photos/dogs /torn.jpg: "):
        assert told in result.stderr

    measured = run("evaluate", report["best"], "--data", "photos", "-j", "0", "--json")
    assert measured.exit_code == 0, measured.stderr
    again = json.loads(measured.stdout)
    assert (again["images"], again["val_split"]) == (3, 0.2)
    assert again["notes"] == NOTES
    for words in (("gates",), ("prune", "--no-latency")):
        looked = run(*words, report["best"], "--data", "photos", "-j", "0", "--json")
        assert looked.exit_code == 0, looked.stderr
        found = json.loads(looked.stdout)
        for told in ("data", "val_split", "seed", "skipped"):
            assert found[told] == again[told]


def test_the_same_images_train_the_same_from_a_manifest_and_from_a_tar(photos: Path) -> None:
    network = make_network(1, photos / "any.se.pt")
    with (photos / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows(
            (path.relative_to(photos), path.parent.name) for path in (photos / "photos").rglob("*.[jp][pn]g")
        )
    with tarfile.open(photos / "photos.tar", "w") as archive:
        archive.add("photos")
    reports = []
    for data in ("photos", "labels.csv", "photos.tar"):
        result = run("finetune", network, "--data", data, *SETTINGS, "--json")
        assert result.exit_code == 0, result.stderr
        reports.append(json.loads(result.stdout))
        measured = run("evaluate", reports[-1]["best"], "--data", data, "-j", "0", "--json")
        assert json.loads(measured.stdout)["val_split"] == 0.2
    for told in ("epochs", "classes", "images", "per_class"):
        assert reports[1][told] == reports[2][told] == reports[0][told]
    assert [report["skipped"][0]["path"] for report in reports[1:]] == [
        "photos/dogs /torn.jpg",
        "photos.tar/photos/dogs /torn.jpg",
    ]


def test_a_network_for_transparency_trains_too(photos: Path) -> None:
    network = make_network(4, photos / "any.se.pt")
    result = run("finetune", network, "--data", "photos", *SETTINGS, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["preprocessing"]["input_size"] == [4, 8, 8]
    assert np.isfinite([row["eval_loss"] for row in report["epochs"]]).all()


def test_a_network_for_five_channels_is_refused_before_anything_is_written(photos: Path) -> None:
    network = make_network(5, photos / "any.se.pt")
    for verb in ("finetune", "evaluate"):
        result = run(verb, network, "--data", "photos", "-j", "0", "--device", "cpu")
        assert result.exit_code == 1, result.stderr
        assert "takes 5 input channels, and images give 1 (grey) or 3 (colour)" in result.stderr
    assert not (photos / "runs").exists()


def test_data_that_cannot_be_used_are_told(workplace: Path) -> None:
    (workplace / "labels.csv").write_text("path,label\nnowhere.png,up\n")
    (workplace / "photos.zip").touch()
    cases = {
        "labels.csv": (1, "line 2: there is no file nowhere.png"),
        "nowhere.csv": (1, "The manifest nowhere.csv does not exist"),
        "photos.zip": (1, "is a file, not a folder"),
        "wds:nowhere": (1, "No WebDataset shard at nowhere"),
        "hfds:org/name:columns=a": (2, "is not hfds:NAME"),
    }
    for data, (code, message) in cases.items():
        result = run("evaluate", "net.se.pt", "--data", data, "-j", "0", "--device", "cpu")
        assert result.exit_code == code, result.stderr
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
