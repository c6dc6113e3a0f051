"""Blocks that no gradient reaches are told of."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass
class Result:
    scores: Tensor
    extra: Tensor


class Keeping(Net):
    """Writes into a buffer and an attribute without saying that no gradients are needed, and keeps what a hook sees."""

    def __init__(self) -> None:
        super().__init__(plainly)
        self.register_buffer("mean", torch.zeros(8))
        self.last, self.log = torch.zeros(8), list[Tensor]()
        self.two.register_forward_hook(lambda module, inputs, output: self.log.append(output))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x))
        self.get_buffer("mean").mul_(0.9).add_(x.mean((0, 2, 3)))
        self.last += x.mean((0, 2, 3))
        return self.head(self.two(x).mean((2, 3)) + self.get_buffer("mean"))


@pytest.mark.parametrize("inplace", [False, True])
def test_the_network_is_left_as_it_was(inplace: bool) -> None:
    model = Keeping()
    augmented = operate(model, example_inputs=IMAGES, inplace=inplace).model
    for network in (model, augmented):
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
        assert int(network.get_buffer("one.body.1.num_batches_tracked")) == 0
        assert not network.get_buffer("mean").requires_grad
        assert not network.get_buffer("mean").any()
        assert not network.last.requires_grad
        assert network.log == []
    copy.deepcopy(augmented)
    augmented.train()(IMAGES).sum().backward()  # nothing of the pass is left in what it uses


@pytest.mark.parametrize("kept", ["dataclass", "attribute"])
def test_results_beside_the_scores_count(kept: str) -> None:
    class WithExtra(Net):
        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            extra, scores = self.one(x), self.head(self.two(x).mean((2, 3)))
            if kept == "dataclass":
                return Result(scores, extra)
            self.extra = extra
            return scores

    surgery = operate(WithExtra(plainly), example_inputs=IMAGES)
    assert len(blocks_of(surgery.model)) == 2
    assert surgery.unreached == ()


def test_objects_that_cannot_be_looked_into_tell_nothing() -> None:
    class Holder:
        def __init__(self, scores: Tensor) -> None:
            self.scores = scores

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Holder) and torch.equal(self.scores, other.scores)

        __hash__ = None  # type: ignore[assignment]

    class Held(Net):
        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                return Holder(super().forward(x))

    assert operate(Held(plainly), example_inputs=IMAGES).unreached == ()


def test_without_any_gradient_no_block_can_learn() -> None:
    class Still(Net):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    assert operate(Still(plainly), example_inputs=IMAGES).unreached == ("one.se", "two.se")


def test_as_an_error_a_warning_takes_the_blocks_out_again() -> None:
    model = Net(without_gradients)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(sesurgeon.SurgeryWarning):
            sesurgeon.add_se(model, IMAGES, inplace=True)
    assert blocks_of(model) == {}


@pytest.mark.parametrize("policy", ["standard", "inner", "conv"])
def test_all_blocks_of_a_real_network_can_learn(policy: str) -> None:
    surgery = operate(timm.create_model("resnet10t"), example_inputs=torch.randn(2, 3, 64, 64), policies=[policy])
    assert surgery.unreached == ()


def test_the_library_warns() -> None:
    with pytest.warns(sesurgeon.SurgeryWarning, match=r"no gradient reaches 1 block \(one\.se\), which cannot learn"):
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
    assert "no gradient reaches 4 blocks (body.layer1.0.se, " in result.stderr
    assert len(json.loads(result.stdout)["unreached"]) == 4
