"""``sesurgeon gates`` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.cli.verbs.gates import named_classes

DATA = ("--data", "data", "-j", "0", "--device", "cpu")


def gates(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["gates", *arguments])


def test_the_gate_of_a_fresh_block_does_nothing_and_is_named(workplace: Path) -> None:
    result = gates(*DATA)
    assert result.exit_code == 0, result.stderr
    taken, *_, few = result.stderr.splitlines()
    assert taken == "No MODEL given: taking net.se.pt, the newest here."
    assert few == "Warning: how much a gate varies cannot be told from 6 images. Give some hundreds."
    rows = [" ".join(line.split()) for line in result.stdout.splitlines() if line.startswith("1.se")]
    assert rows == ["1.se 1.0000 0.0000 0.0000 0.0000 0.0000 0 % 100 % 0 % 1 for all"]
    assert "net.se.pt on data, 6 images" in result.stdout
    assert "Do nothing (no factor differs from 1 by 0.01): 1.se.\n`sesurgeon prune`" in result.stdout
    assert "Written" not in result.stdout


def test_images_without_labels_are_studied_too(workplace: Path) -> None:
    Path("data").rename("photos")
    for number, image in enumerate(sorted(Path("photos").rglob("*.png"))):
        image.rename(Path("photos") / f"{number}.png")
    result = gates("net.se.pt", "--data", "photos", "-j", "0", "--device", "cpu", "-o", "report")
    assert result.exit_code == 0, result.stderr
    assert "The images of photos have no labels that net.se.pt knows: nothing is shown by class." in result.stderr
    assert "1.se 1.0000 0.0000 0.0000 - 0.0000" in " ".join(result.stdout.split())
    assert len(list(Path("report").iterdir())) == 4


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("up,down", ["up", "down"]),
        (" up , down", ["up", "down"]),
        ('"a,b",up', ["a,b", "up"]),
        ('up, "a,b"', ["up", "a,b"]),
        ("a,b", ["a,b"]),
        (" lead ,up", [" lead ", "up"]),
        ("", [""]),
    ],
)
def test_names_of_classes_may_have_commas_and_spaces(text: str, names: list[str]) -> None:
    assert named_classes(text, ["up", "down", "a,b", " lead "]) == names


def test_json_is_alone_on_stdout_and_the_report_is_written(workplace: Path) -> None:
    model = sesurgeon.load("net.se.pt")
    torch.nn.init.normal_(model.get_parameter("1.se.fc2.weight"), std=3, generator=torch.Generator().manual_seed(1))
    sesurgeon.save(model, "net.se.pt")
    result = gates("net.se.pt", *DATA, "--classes", "up, down", "-o", "a/report", "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    study = sesurgeon.study_gates(model, "data", workers=0)
    (gate,) = report["gates"]
    assert gate["image_spread"] == study.gates[0].image_spread > 1e-4
    assert (gate["gate"], gate["verdict"], gate["channels"], gate["ceiling"]) == (
        "1.se",
        study.gates[0].verdict,
        8,
        2.0,
    )
    assert (report["classes"], report["open"], report["images"]) == (["up", "down"], [], 6)
    assert sorted(path.name for path in Path("a/report").iterdir()) == sorted(
        Path(file).name for file in report["files"]
    )
    assert len(report["files"]) == 4
    again = gates("net.se.pt", *DATA, "-o", "a/report")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    assert gates("net.se.pt", *DATA, "-o", "a/report", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["base.pt", *DATA], 2, "There are no inserted blocks in this Sequential"),
        (["net.se.pt", *DATA, "--classes", "upp", "-o", "report"], 2, "no class 'upp' (nearest: up)"),
        (["net.se.pt", *DATA, "--on-bad-image", "ignore"], 2, "'ignore' is not one of"),
        (["net.se.pt", *DATA, "-o", "base.pt"], 1, "The folder base.pt of the report cannot be made"),
        (["net.se.pt", *DATA, "-o", "base.pt/report"], 1, "base.pt is no folder that can be written to"),
        (["net.se.pt", "--data", "nowhere"], 1, "The data folder nowhere does not exist"),
        (["missing.pt", *DATA], 3, "missing.pt"),
        (["net.se.pt", *DATA, "-o", "nowhere-link"], 1, "The folder nowhere-link of the report is a link to nothing"),
    ],
)
def test_bad_input_is_told(arguments: list[str], code: int, message: str, workplace: Path) -> None:
    sesurgeon.save(sesurgeon.remove_se(sesurgeon.load("net.se.pt")), "base.pt")
    Path("nowhere-link").symlink_to("nowhere")
    result = gates(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not Path("report").exists()
