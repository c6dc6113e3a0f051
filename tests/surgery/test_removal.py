"""Blocks that are there already: found whatever stands above them, and taken out only where nothing is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from sesurgeon import UsageError, add_se, apply_plan, fold_gate_scale, make_plan, remove_se
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
    with pytest.raises(UsageError, match=r"something gave 1 another class.*\n.*remove_parametrizations"):
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
