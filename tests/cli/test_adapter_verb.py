"""``finetune --train blocks`` and ``sesurgeon adapter``: one backbone, and small files for many tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sesurgeon
from tests.cli.commands import run

SHORT = ("--data", "data", "--epochs", "2", "-b", "4", "-j", "0", "--device", "cpu", "--log-with", "none", "-q")
RUN = "runs/finetune/exp"


def trained(*arguments: str) -> str:
    """What it printed."""
    result = run("finetune", *SHORT, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def weights(path: str) -> dict[str, Tensor]:
    return sesurgeon.load(path).state_dict()


@pytest.fixture
def base(workplace: Path, net: Callable[..., nn.Module]) -> Path:
    sesurgeon.save(net(5), workplace / "net.pt")
    sesurgeon.save(sesurgeon.add_se(net(5), torch.randn(2, 1, 8, 8)), workplace / "net.se.pt")
    return workplace / "net.pt"


def test_the_backbone_stays_and_the_network_comes_back(base: Path) -> None:
    trained("--train", "blocks")
    before, last = weights("net.se.pt"), weights(f"{RUN}/last.pt")
    own = [name for name in last if ".se." in name or name.startswith("4.")]
    assert all(torch.equal(last[name], before[name]) for name in last if name not in own)
    assert any("running_mean" in name for name in last if name not in own)
    assert not torch.equal(last["1.se.fc2.weight"], before["1.se.fc2.weight"])
    result = run("adapter", "extract", f"{RUN}/last.pt", "-o", "flowers.adapter.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["blocks"], report["num_classes"], report["classes"]) == (1, 2, ["down", "up"])
    assert report["size"] == Path("flowers.adapter.safetensors").stat().st_size
    assert report["numbers"] == sum(last[name].numel() for name in own)
    result = run("adapter", "apply", "net.pt", "flowers.adapter.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "Written: flowers.se.pt" in result.stdout
    again = weights("flowers.se.pt")
    assert list(again) == list(last)
    assert all(torch.equal(again[name], last[name]) for name in last)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(sesurgeon.load("flowers.se.pt")(images), sesurgeon.load(f"{RUN}/last.pt")(images))
    scores = [
        json.loads(run("evaluate", file, "--data", "data", "-j", "0", "--json").stdout)
        for file in ("flowers.se.pt", f"{RUN}/last.pt")
    ]
    assert scores[0]["top1"] == scores[1]["top1"]


def test_a_run_folder_or_nothing_takes_its_best(base: Path) -> None:
    printed = trained("--train", "blocks", "--name", "flowers")
    assert "         sesurgeon adapter extract runs/finetune/flowers\n" in printed
    result = run("adapter", "extract", "runs/finetune/flowers")
    assert result.exit_code == 0, result.stderr
    file = "runs/finetune/flowers/best.adapter.safetensors"
    assert f"Written: {file}" in result.stdout
    assert f"Next:    sesurgeon adapter apply BASE {file}" in result.stdout
    result = run("adapter", "extract")
    assert (result.exit_code, "exists already" in result.stderr) == (1, True)
    assert "taking runs/finetune/flowers/best.pt" in result.stderr
    assert run("adapter", "extract", "--force").exit_code == 0


def test_a_head_that_is_kept_is_trained_too(workplace: Path) -> None:
    trained("--train", "blocks")
    trained(f"{RUN}/best.pt", "--train", "blocks", "--name", "again")
    first, second = weights(f"{RUN}/best.pt"), weights("runs/finetune/again/last.pt")
    assert not torch.equal(first["4.weight"], second["4.weight"])
    assert torch.equal(first["1.conv1.weight"], second["1.conv1.weight"])
    assert run("adapter", "extract", "runs/finetune/again").exit_code == 0


def test_a_plain_network_has_its_head_alone(base: Path) -> None:
    trained("net.pt", "--train", "blocks")
    assert run("adapter", "extract", f"{RUN}/last.pt").exit_code == 0
    assert run("adapter", "apply", "net.pt", f"{RUN}/last.adapter.safetensors").exit_code == 0
    last, again = weights(f"{RUN}/last.pt"), weights(f"{RUN}/last.whole.pt")
    assert all(torch.equal(again[name], last[name]) for name in last)


def test_what_trained_the_backbone_is_refused(base: Path) -> None:
    trained("--freeze-epochs", "0")
    result = run("adapter", "extract", f"{RUN}/last.pt")
    assert result.exit_code == 2
    assert "trained as a whole" in result.stderr
    assert "--train blocks" in result.stderr


def test_the_base_is_compared_where_it_is_given(base: Path, net: Callable[..., nn.Module]) -> None:
    trained("--train", "blocks")
    result = run("adapter", "extract", "--base", "net.pt")
    assert result.exit_code == 0
    assert f"Next:    sesurgeon adapter apply net.pt {RUN}/best.adapter.safetensors\n" in result.stdout
    assert run("adapter", "extract", "--base", "net.se.pt", "--force").exit_code == 0  # without its own blocks
    other = net(5)
    with torch.no_grad():
        other[1].bn1.running_mean += 1
    sesurgeon.save(other, "other.pt")
    before = Path(f"{RUN}/best.adapter.safetensors").read_bytes()
    result = run("adapter", "extract", "--base", "other.pt", "--force")
    assert (result.exit_code, "other BatchNorm statistics: 1.bn1" in result.stderr) == (5, True), result.stderr
    assert run("adapter", "extract", "--base", "timm:resnet10t", "--force").exit_code == 5
    result = run("adapter", "extract", "--pretrained", "--force")
    assert (result.exit_code, "--pretrained is for --base" in result.stderr) == (2, True), result.stderr
    result = run("adapter", "extract", "--base", "net.pt", "-o", "net.pt", "--force")
    assert result.exit_code == 2, result.stderr
    assert Path(f"{RUN}/best.adapter.safetensors").read_bytes() == before


def test_another_base_is_refused_with_what_differs(base: Path, net: Callable[..., nn.Module]) -> None:
    trained("--train", "blocks")
    assert run("adapter", "extract", "-o", "a.adapter.safetensors").exit_code == 0
    other = net(5)
    with torch.no_grad():
        other[1].conv2.weight[0, 0, 0, 0] += 1e-6
    sesurgeon.save(other, "other.pt")
    before = sorted(Path().iterdir())
    result = run("adapter", "apply", "other.pt", "a.adapter.safetensors", "-o", "out.se.pt")
    assert result.exit_code == 5, result.stderr
    assert "another base: its weights differ in 1." in result.stderr
    result = run("adapter", "apply", "timm:resnet10t", "a.adapter.safetensors", "-o", "out.se.pt")
    assert result.exit_code == 5, result.stderr
    assert "made for the class Sequential, this is ResNet" in result.stderr
    Path("torn.adapter.safetensors").write_bytes(Path("a.adapter.safetensors").read_bytes()[:-50])
    assert run("adapter", "apply", "net.pt", "torn.adapter.safetensors").exit_code == 3
    assert run("adapter", "apply", "net.pt", "missing.adapter.safetensors").exit_code == 3
    assert run("adapter", "apply", "net.pt", "net.pt").exit_code == 3
    for taken in ("net.pt", "a.adapter.safetensors"):
        contents = Path(taken).read_bytes()
        result = run("adapter", "apply", "net.pt", "a.adapter.safetensors", "-o", taken, "--force")
        assert (result.exit_code, f"{taken} is the model itself" in result.stderr) == (2, True)
        assert Path(taken).read_bytes() == contents
    result = run("evaluate", "a.adapter.safetensors", "--data", "data")
    assert (result.exit_code, "sesurgeon adapter apply BASE" in result.stderr) == (2, True)
    Path("torn.adapter.safetensors").unlink()
    assert sorted(Path().iterdir()) == before


def test_settings_that_train_blocks_has_no_use_for_are_told(base: Path) -> None:
    arguments = [word for word in SHORT if word != "-q"]
    result = run("finetune", *arguments, "--train", "blocks", "--freeze-epochs", "2")
    assert result.exit_code == 0
    assert "freeze_epochs (=2) has no effect with train (=blocks)" in result.stderr
    result = run("finetune", *SHORT, "--train", "head")
    assert result.exit_code == 2
    assert "'head' is not one of" in result.stderr


def test_help_of_the_group_and_of_its_verbs_needs_no_torch() -> None:
    for words in (["adapter", "--help"], ["adapter", "extract", "--help"], ["adapter", "apply", "--help"]):
        result = run(*words)
        assert result.exit_code == 0
    assert "extract" in run("adapter").output
    assert run("adapter", "no-such-verb").exit_code == 2


def test_code_is_typed_with_its_arguments_and_the_network_is_not_replaced(base: Path) -> None:
    Path("own_base.py").write_text(
        "from tests.cli.conftest import tiny_net\n\n\ndef make(classes):\n    return tiny_net(classes)\n"
    )
    how = ("--arch", "factory:own_base:make", "--model-kwargs", "classes=5")
    made = run("add-se", "factory:own_base:make", *how[2:], "--input-shape", "2,1,8,8", "-o", "own.se.pt")
    assert made.exit_code == 0, made.stderr
    before = Path("own.se.pt").read_bytes()
    over = run("adapter", "extract", "own.se.pt", *how, "-o", "own.se.pt", "--force")
    assert (over.exit_code, Path("own.se.pt").read_bytes()) == (2, before)
    extracted = run("adapter", "extract", "own.se.pt", *how)
    assert extracted.exit_code == 0, extracted.stderr
    net = sesurgeon.add_se(sesurgeon.load("net.pt"), torch.randn(2, 1, 8, 8))
    sesurgeon.save(net, "whole.se.pt")  # it has its architecture in it: the arguments are of the base
    extracted = run("adapter", "extract", "whole.se.pt", "--base", "factory:own_base:make", *how[2:])
    assert extracted.exit_code == 0, extracted.stderr
