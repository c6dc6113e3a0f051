"""Blocks that are there already: found whatever stands above them, and taken out only where nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils import parametrize

from sesurgeon import UsageError, add_se, apply_plan, fold_gate_scale, load, make_plan, remove_se, save
from sesurgeon.surgery import blocks_of
from sesurgeon.surgery.rewrite import is_rewritten
from tests.networks import FunctionalResNet, OddNet, PlainNet, ResidualBlock

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Scaled(ResidualBlock):
    """An owner with a parameter of its own, as LayerScale."""

    def __init__(self) -> None:
        super().__init__(8)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        return self.gamma * super().forward(x, shortcut)


class OneBlock(nn.Module):
    """The root has the place itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return torch.relu(x + self.conv(x))


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def covered() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    augmented = add_se(net, example_inputs=SMALL)
    parametrize.register_parametrization(augmented.get_submodule("1"), "gamma", Twice())
    return augmented


def test_blocks_under_another_class_are_seen() -> None:
    augmented = covered()
    assert list(blocks_of(augmented)) == ["1.se"]
    assert is_rewritten(augmented.get_submodule("1"))


@pytest.mark.parametrize("inplace", [False, True])
def test_removal_names_the_module_that_got_another_class(inplace: bool) -> None:
    augmented = covered()
    with pytest.raises(UsageError, match=r"something gave 1 another class or forward.*\n.*remove_parametrizations"):
        remove_se(augmented, inplace=inplace)
    assert list(blocks_of(augmented)) == ["1.se"]


def test_removal_works_once_that_class_is_gone() -> None:
    augmented = covered()
    parametrize.remove_parametrizations(augmented.get_submodule("1"), "gamma")
    back = remove_se(augmented)
    assert blocks_of(back) == {}
    assert type(back.get_submodule("1")) is Scaled


def test_a_plan_for_a_network_with_covered_blocks_is_not_applied() -> None:
    augmented = covered()
    with pytest.raises(UsageError, match="inserted blocks already"):
        add_se(augmented, example_inputs=SMALL)


@pytest.mark.parametrize("make", [OddNet, PlainNet, FunctionalResNet])
def test_a_second_operation_says_how_to_undo_the_first(make: type[nn.Module]) -> None:
    augmented = add_se(make(), example_inputs=SMALL)
    for again in (add_se, make_plan):
        with pytest.raises(UsageError, match=r"inserted blocks already; .*sesurgeon\.remove_se"):
            again(augmented, example_inputs=SMALL)
    plan = make_plan(remove_se(augmented), example_inputs=SMALL)
    assert len(blocks_of(apply_plan(remove_se(augmented), plan))) == len(blocks_of(augmented))


def test_factors_are_taken_out_of_a_network_within_a_network() -> None:
    net = FunctionalResNet().eval()
    outer = nn.Sequential(nn.Identity(), fold_gate_scale(add_se(net, example_inputs=SMALL)))
    bare = remove_se(outer).eval()
    assert blocks_of(bare) == {}
    assert torch.equal(bare(SMALL), net(SMALL))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in bare[1].state_dict().items())


@pytest.mark.parametrize("inplace", [False, True])
def test_removal_names_the_module_on_which_another_forward_was_put(inplace: bool) -> None:
    augmented = add_se(nn.Sequential(nn.Conv2d(3, 8, 3), ResidualBlock(8)), SMALL)
    owner = augmented.get_submodule("1")
    forward = owner.forward
    owner.forward = lambda x: forward(x)
    with pytest.raises(UsageError, match=r"something gave 1 another class or forward.*\n.*del module.forward"):
        remove_se(augmented, inplace=inplace)
    del owner.forward
    assert blocks_of(remove_se(augmented)) == {}


def back_from(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    back: nn.Module = accelerator.unwrap_model(accelerator.prepare_model(model), keep_fp32_wrapper=False)
    assert "forward" in vars(back)
    return back


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_that_comes_from_accelerate_gets_blocks_that_run(accelerator: Accelerator, inplace: bool) -> None:
    augmented = add_se(back_from(accelerator, OneBlock()), SMALL, inplace=inplace).eval()
    before = augmented(SMALL)
    nn.init.constant_(augmented.get_parameter("se.fc2.bias"), 1.0)
    assert not torch.equal(augmented(SMALL), before)


def test_the_forward_that_accelerate_leaves_on_an_instance_is_in_nobodys_way(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    net = OneBlock()
    augmented = back_from(accelerator, add_se(net, SMALL, init="random")).eval()
    expected = augmented(SMALL)
    assert torch.equal(fold_gate_scale(augmented)(SMALL), expected)
    save(augmented, tmp_path / "net.se.pt")
    assert torch.equal(load(tmp_path / "net.se.pt", trust_pickle=True).eval()(SMALL), expected)
    assert torch.equal(remove_se(augmented)(SMALL), net.eval()(SMALL))
    assert not torch.equal(expected, net(SMALL))


def test_the_wrapper_of_accelerate_has_to_go_first(accelerator: Accelerator) -> None:
    prepared = accelerator.prepare_model(add_se(OneBlock(), SMALL))
    with pytest.raises(UsageError, match=r"gave the model itself another class or forward.*\n.*unwrap_model"):
        remove_se(prepared)
