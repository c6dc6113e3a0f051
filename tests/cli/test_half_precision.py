"""Checkpoints whose weights are of half precision: what runs a network runs them, and training says what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sesurgeon
from tests.cli.commands import run

DATA = ("--data", "data", "-j", "0", "--device", "cpu")


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float64], ids=lambda dtype: str(dtype))
def dtype(request: pytest.FixtureRequest, workplace: Path) -> torch.dtype:
    """Of the weights of net.se.pt."""
    found: torch.dtype = request.param
    sesurgeon.save(sesurgeon.load("net.se.pt").to(found), "net.se.pt")
    return found


@pytest.mark.usefixtures("dtype")
@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "net.se.pt", *DATA),
        ("predict", "net.se.pt", "data", "-j", "0", "--device", "cpu"),
        ("gates", "net.se.pt", *DATA),
        ("prune", "net.se.pt", *DATA),
    ],
    ids=lambda arguments: arguments[0],
)
def test_images_are_given_as_the_weights_are(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)


def test_the_scores_are_those_of_the_rounded_weights(dtype: torch.dtype) -> None:
    model = sesurgeon.load("net.se.pt")
    found = sesurgeon.evaluate(model, "data", workers=0)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert sesurgeon.evaluate(model.float(), "data", workers=0).loss == pytest.approx(found.loss, abs=0.02)


def test_training_refuses_them_and_says_what_to_do(dtype: torch.dtype, workplace: Path) -> None:
    result = run("finetune", "net.se.pt", *DATA, "--epochs", "1")
    assert result.exit_code == 2
    name = str(dtype).removeprefix("torch.")
    assert f"The model's weights are {name}, and fine-tuning takes float32." in result.stderr
    assert "Give load trust_pickle or arch where" in result.stderr
    assert not (workplace / "runs").exists()
    sesurgeon.save(sesurgeon.load("net.se.pt").float(), "net.float32.pt")  # as the message says
    assert run("finetune", "net.float32.pt", *DATA, "--epochs", "1", "--log-with", "none").exit_code == 0
