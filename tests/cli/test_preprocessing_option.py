"""``--preprocessing``: what a user says of a network whose file does not say how images were prepared for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
import yaml

import sesurgeon
from sesurgeon.models import Preprocessing, provenance_of
from tests.cli.commands import export, finetune, run

STATED = ("--preprocessing", "input_size=[1,12,12]", "--preprocessing", "mean=0.25", "--preprocessing", "std=[0.2]")
ASKED = ("--data", "data", "-j", "0", "--device", "cpu")
EXPECTED = Preprocessing((1, 12, 12), (0.25,), (0.2,))


def test_said_once_to_add_se_it_is_known_to_all_that_follows(workplace: Path) -> None:
    assert run("remove-se", "net.se.pt", "-o", "plain.pt").exit_code == 0
    assert run("add-se", "plain.pt", "-o", "known.pt", *STATED).exit_code == 0
    assert provenance_of(sesurgeon.load("known.pt")).preprocessing == EXPECTED
    report = json.loads(run("evaluate", "known.pt", *ASKED, "--json").stdout)
    assert report["input_size"] == [1, 12, 12]
    assert not [note for note in report["notes"] if "normalised" in note]
    assert export("known.pt", "-o", "known.onnx").exit_code == 0
    metadata = {entry.key: entry.value for entry in onnx.load("known.onnx").metadata_props}
    assert Preprocessing.from_dict(json.loads(metadata["preprocessing"])) == EXPECTED


def test_it_changes_what_the_network_sees(workplace: Path) -> None:
    losses = [
        json.loads(run("evaluate", "net.se.pt", *ASKED, "--json", *words).stdout)["loss"]
        for words in ((), STATED, ("--preprocessing", "input_size=[1,8,8]", *STATED[2:]))
    ]
    assert len(set(losses)) == 3


def test_a_run_keeps_it_and_goes_on_with_it(workplace: Path) -> None:
    trained = finetune("net.se.pt", *ASKED, *STATED, "--epochs", "1", "--name", "run", "--quiet")
    assert trained.exit_code == 0, trained.stderr
    folder = Path("runs/finetune/run")
    assert provenance_of(sesurgeon.load(folder / "best.pt")).preprocessing == EXPECTED
    settings = yaml.safe_load((folder / "args.yaml").read_text())
    assert settings["preprocessing"] == list(STATED[1::2])
    again = finetune("--config", str(folder / "args.yaml"), "--name", "again", "--quiet")
    assert again.exit_code == 0, again.stderr
    assert provenance_of(sesurgeon.load("runs/finetune/again/best.pt")).preprocessing == EXPECTED
    refused = finetune("--resume", "--name", "run", *STATED)
    assert refused.exit_code == 2
    assert "--resume continues a run with its own preprocessing." in refused.stderr


def test_a_configuration_may_hold_it_as_a_mapping(workplace: Path) -> None:
    Path("mine.yaml").write_text("preprocessing: {input_size: [1, 12, 12], mean: 0.25, std: [0.2]}")
    trained = finetune("net.se.pt", *ASKED, "--config", "mine.yaml", "--epochs", "1", "--name", "run", "--quiet")
    assert trained.exit_code == 0, trained.stderr
    assert provenance_of(sesurgeon.load("runs/finetune/run/best.pt")).preprocessing == EXPECTED


def test_an_exported_file_can_be_told_otherwise(workplace: Path) -> None:
    assert export("net.se.pt", "-o", "net.onnx").exit_code == 0
    stated = ("--preprocessing", "input_size=[1,8,8]", *STATED[2:])
    losses = [
        json.loads(run("evaluate", file, *ASKED, "--json", *words).stdout)["loss"]
        for file, words in (("net.onnx", ()), ("net.onnx", stated), ("net.se.pt", stated))
    ]
    assert losses[1] == pytest.approx(losses[2], abs=1e-5)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mean", "'mean' is not KEY=VALUE"),
        ("mean=0.5", "does not say at which size it sees images"),
        ("men=0.5", "There is no preprocessing setting men. There are input_size, mean"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(workplace: Path, value: str, message: str) -> None:
    before = sorted(workplace.rglob("*"))
    refused = finetune("net.se.pt", *ASKED, "--preprocessing", value)
    assert refused.exit_code == 2
    assert message in re.sub(r"\s+", " ", refused.stderr)
    assert sorted(workplace.rglob("*")) == before
