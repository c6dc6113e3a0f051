"""``sesurgeon prune`` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import Result

import sesurgeon
from sesurgeon.surgery import blocks_of
from tests.cli.commands import run
from tests.surgery.trained import assert_same

DATA = ("--data", "data", "-j", "0", "--device", "cpu")
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def prune(*arguments: str) -> Result:
    return run("prune", *arguments)


@pytest.fixture
def constant(workplace: Path) -> nn.Module:
    """net.se.pt, whose gate is another constant for each channel."""
    model = sesurgeon.load("net.se.pt")
    with torch.no_grad():
        model.get_parameter("1.se.fc2.bias").copy_(torch.linspace(-1, 2, 8))
    sesurgeon.save(model, "net.se.pt")
    return model


def test_a_gate_that_is_1_goes_and_the_outputs_stay(workplace: Path) -> None:
    result = prune(*DATA, "--no-latency")
    assert result.exit_code == 0, result.stderr
    taken, *_, few, told = result.stderr.splitlines()
    assert taken == "No MODEL given: taking net.se.pt, the newest here."
    assert few == "Warning: how much a gate varies cannot be told from 6 images. Give some hundreds."
    assert told.startswith("1.se (spread 0.00000) is gone: top-1 ")
    assert "1 block taken out: top-1 " in result.stdout
    assert "Written: net.pruned.pt" in result.stdout
    assert_same(sesurgeon.load("net.pruned.pt"), sesurgeon.load("net.se.pt"), IMAGES)
    again = prune(*DATA)
    assert (again.exit_code, "net.pruned.pt exists already" in again.stderr) == (1, True)


def test_the_next_command_can_be_pasted(workplace: Path) -> None:
    (workplace / "net.se.pt").rename("my net.se.pt")
    result = prune("my net.se.pt", *DATA, "--no-latency")
    assert "Next:    sesurgeon export 'my net.pruned.pt' --onnx" in result.stdout


def test_json_is_alone_on_stdout_with_each_step(constant: nn.Module) -> None:
    result = prune("net.se.pt", *DATA, "--json", "--quiet", "-o", "less.pt", "--max-drop", "100")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    (step,) = report["steps"]
    assert (step["block"], step["accepted"], step["tensors"]) == ("1.se", True, ["1.bn2.bias", "1.bn2.weight"])
    assert step["smallest"] == pytest.approx(2 * torch.tensor(-1.0).sigmoid().item(), rel=1e-6)
    assert step["ms_before"] > 0
    assert step["ms_after"] > 0
    assert (report["removed"], report["left"], report["output"]) == (["1.se"], [], "less.pt")
    pruned = sesurgeon.load("less.pt")
    assert blocks_of(pruned) == {}
    with torch.no_grad():
        assert torch.allclose(pruned(IMAGES), constant(IMAGES), rtol=1e-5, atol=1e-6)


def test_where_nothing_can_go_nothing_is_written(workplace: Path) -> None:
    model = sesurgeon.load("net.se.pt")
    nn.init.normal_(model.get_parameter("1.se.fc2.weight"), std=3, generator=torch.Generator().manual_seed(1))
    sesurgeon.save(model, "net.se.pt")
    result = prune("net.se.pt", *DATA, "--tolerance", "1e-4")
    assert result.exit_code == 0, result.stderr
    assert (
        "Gates that depend on the image or the place, with a channel whose spread is above 0.0001: 1.se ("
        in result.stdout
    )
    assert result.stdout.endswith("No block was taken out, and nothing was written.\n")
    assert not Path("net.pruned.pt").exists()
    assert json.loads(prune("net.se.pt", *DATA, "--tolerance", "1e-4", "--json").stdout)["output"] is None


def test_the_verbs_after_it_know_it(constant: nn.Module) -> None:
    two = nn.Sequential(*(module for module in sesurgeon.remove_se(constant)))
    two.insert(2, nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    model = sesurgeon.add_se(two, IMAGES, policy="conv")
    paths = list(blocks_of(model))
    for path in paths[1:]:
        generator = torch.Generator().manual_seed(1)
        nn.init.normal_(model.get_parameter(f"{path}.fc2.weight"), std=3, generator=generator)
    with torch.no_grad():
        model.get_parameter(f"{paths[0]}.fc2.bias").copy_(torch.linspace(-1, 2, 8))
    sesurgeon.save(model, "two.se.pt")
    assert prune("two.se.pt", *DATA, "--max-drop", "100", "--tolerance", "1e-5", "--no-latency").exit_code == 0
    pruned = sesurgeon.load("two.pruned.pt")
    assert list(blocks_of(pruned)) == paths[1:]
    removed = run("remove-se", "two.pruned.pt")
    assert removed.exit_code == 0, removed.stderr
    assert f"The constants of blocks that were pruned stay in its weights: {paths[0]}." in removed.stdout
    exported = run("export", "two.pruned.pt", "--onnx", "--json")
    assert exported.exit_code == 0, exported.stderr
    shown = run("inspect", "two.pruned.pt", "--json")
    assert shown.exit_code == 0, shown.stderr
    tuned = run("finetune", "two.pruned.pt", *DATA, "--epochs", "1", "--freeze-epochs", "0", "--log-with", "none")
    assert tuned.exit_code == 0, tuned.stderr
    best = sesurgeon.load("runs/finetune/exp/best.pt")
    assert list(blocks_of(best)) == paths[1:]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["base.pt", *DATA], 2, "There are no inserted blocks in this Sequential"),
        (["net.se.pt", *DATA, "--max-drop", "-1"], 2, "max-drop"),
        (["net.se.pt", *DATA, "-o", "no/such/folder.pt"], 1, "The folder no/such of the output"),
        (["net.se.pt", "--data", "nowhere"], 1, "The data folder nowhere does not exist"),
        (["missing.pt", *DATA], 3, "missing.pt"),
    ],
)
def test_bad_input_is_told(arguments: list[str], code: int, message: str, workplace: Path) -> None:
    sesurgeon.save(sesurgeon.remove_se(sesurgeon.load("net.se.pt")), "base.pt")
    result = prune(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
