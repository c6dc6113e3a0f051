"""Blocks that no gradient reaches are told of."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.surgery import operate
from sesurgeon.surgery.rewrite import blocks_of


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Net(nn.Module):
    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), Block(), Block()
        self.head = nn.Linear(8, 2)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.one, self.stem(x))
        return self.head(self.two(x).mean((2, 3)))


def plainly(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)


def without_gradients(block: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return block(x)


def for_nothing(block: nn.Module, x: Tensor) -> Tensor:
    block(x)
    return x


def reentrantly(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=True)


IMAGES = torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize(
    ("run", "unreached"),
    [(plainly, ()), (without_gradients, ("one.se",)), (for_nothing, ("one.se",)), (reentrantly, ())],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_blocks_that_no_gradient_reaches_are_found(
    run: Callable[[nn.Module, Tensor], Tensor], unreached: tuple[str, ...]
) -> None:
    surgery = operate(Net(run), example_inputs=IMAGES)
    assert surgery.unreached == unreached
    surgery.model.train()(IMAGES).sum().backward()
    without = {
        path for path, block in blocks_of(surgery.model).items() if all(one.grad is None for one in block.parameters())
    }
    assert without == set(unreached)  # autograd says the same


def test_the_network_is_left_as_it_was() -> None:
    surgery = operate(Net(plainly), example_inputs=IMAGES)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in surgery.model.parameters())
    assert int(surgery.model.get_submodule("one.body.1").num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["standard", "inner", "conv"])
def test_all_blocks_of_a_real_network_can_learn(policy: str) -> None:
    surgery = operate(timm.create_model("resnet10t"), example_inputs=torch.randn(2, 3, 64, 64), policies=[policy])
    assert surgery.unreached == ()


def test_the_library_warns() -> None:
    with pytest.warns(
        sesurgeon.SurgeryWarning, match=r"No gradient reaches 1 block \(one\.se\), which .* cannot learn"
    ):
        sesurgeon.add_se(Net(without_gradients), IMAGES)
    with pytest.warns(
        sesurgeon.SurgeryWarning, match=r"Could not be followed, and got no blocks of their own: .*no_grad"
    ):
        sesurgeon.add_se(Net(without_gradients), IMAGES)
    with pytest.warns(sesurgeon.SurgeryWarning, match="forward_features of the model skips the blocks"):
        sesurgeon.add_se(timm.create_model("resnet18"), torch.randn(2, 3, 64, 64), policy="conv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sesurgeon.add_se(Net(plainly), IMAGES)


def test_the_command_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "frozen_part.py").write_text(
        "import timm, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body, self.head = timm.create_model('resnet10t', num_classes=0), torch.nn.Linear(512, 2)\n"
        "    def forward(self, x):\n"
        "        with torch.no_grad():\n"
        "            x = self.body(x)\n"
        "        return self.head(x)\n"
    )
    words = ["add-se", "factory:frozen_part:Net", "--input-shape", "2,3,64,64", "-o", "out.se.pt"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0
    assert "Warning: No gradient reaches 4 blocks (body.layer1.0.se, " in result.stderr
    assert len(json.loads(result.stdout)["unreached"]) == 4
