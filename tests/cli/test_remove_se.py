"""``sesurgeon remove-se``: what add-se did is undone, through files and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon.models import attach_provenance, provenance_of
from sesurgeon.surgery import blocks_of, plan_of
from tests.cli.commands import run
from tests.networks import OddNet, PlainNet, trained_like

SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ODD = "factory:tests.networks:OddNet"


def assert_is(model: nn.Module, original: nn.Module) -> None:
    expected = original.state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), logits(original))


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    result: Tensor = model.eval()(SMALL)
    return result


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:shufflenet_v2_x0_5"])
def test_the_original_comes_back_to_the_last_bit(name: str, here: Path) -> None:
    original = trained_like(sesurgeon.load(name, num_classes=4))
    sesurgeon.save(original, here / "net.pt")
    assert run("add-se", "net.pt", "--input-shape", "2,3,32,32").exit_code == 0
    result = run("remove-se", "net.se.pt")
    assert result.exit_code == 0, result.stderr
    assert "if there was none, the weights are the original ones" in result.stdout
    assert "Written: net.base.pt" in result.stdout
    base = sesurgeon.load(here / "net.base.pt")
    assert plan_of(base) is None
    assert blocks_of(base) == {}
    assert_is(base, original)
    commands = [record["command"] for record in provenance_of(base).history]
    assert commands[-2:] == ["add-se", "remove-se"]


def test_a_network_of_ones_own_comes_back(here: Path) -> None:
    original = trained_like(OddNet())
    torch.save(original.state_dict(), here / "odd.pth")
    assert run("add-se", "odd.pth", "--arch", ODD, "--input-shape", "2,3,32,32").exit_code == 0
    result = run("remove-se", "odd.se.pt", "--arch", ODD, "-o", "mine.pt", "--json")
    assert result.exit_code == 0, result.stderr
    assert f"need --arch {ODD} too" in result.stderr
    report = json.loads(result.stdout)
    assert report["output"] == "mine.pt"
    assert report["removed"] == ["shared.se", "blocks.0.se", "blocks.1.se", "mixed.se", "last.se"]
    assert report["trained"] is None
    assert report["parameters"]["after"] == sum(parameter.numel() for parameter in original.parameters())
    assert report["parameters"]["before"] > report["parameters"]["after"]
    assert_is(sesurgeon.load(here / "mine.pt", arch=ODD), original)


def test_a_folded_network_comes_back_too(here: Path) -> None:
    original = trained_like(nn.Sequential(*PlainNet()))
    sesurgeon.save(sesurgeon.fold_gate_scale(sesurgeon.add_se(original, SMALL)), here / "net.se.pt")
    assert run("remove-se", "net.se.pt").exit_code == 0
    assert_is(sesurgeon.load(here / "net.base.pt"), original)


def test_weights_that_were_fine_tuned_stay_and_it_says_so(here: Path) -> None:
    model = sesurgeon.add_se(nn.Sequential(*PlainNet()), SMALL)
    history = ({"command": "add-se"}, {"command": "finetune"})
    attach_provenance(model, replace(provenance_of(model), history=history))
    with torch.no_grad():
        model.get_parameter("8.weight").add_(1)
    sesurgeon.save(model, here / "best.pt")
    result = run("remove-se", "best.pt")
    assert result.exit_code == 0, result.stderr
    assert "the other layers keep the fine-tuned weights" in result.stdout
    base = sesurgeon.load(here / "best.base.pt")
    assert torch.equal(base.get_parameter("8.weight"), model.get_parameter("8.weight"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["timm:resnet10t"], 2, "There are no inserted blocks in timm:resnet10t."),
        (["missing.se.pt"], 3, "missing.se.pt"),
        (["timm:resnet10t", "-o", "no/such/base.pt"], 1, "does not exist"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(arguments: list[str], code: int, message: str, here: Path) -> None:
    result = run("remove-se", *arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    assert list(here.iterdir()) == []


def test_a_file_that_exists_is_replaced_by_force_alone(here: Path) -> None:
    sesurgeon.save(sesurgeon.add_se(nn.Sequential(*PlainNet()), SMALL), here / "net.se.pt")
    (here / "net.base.pt").write_bytes(b"mine")
    result = run("remove-se", "net.se.pt")
    assert (result.exit_code, (here / "net.base.pt").read_bytes()) == (1, b"mine")
    assert "--force" in result.stderr
    assert run("remove-se", "net.se.pt", "--force").exit_code == 0
    assert sesurgeon.load(here / "net.base.pt")(SMALL).shape == (2, 5)
