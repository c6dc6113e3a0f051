"""Which layers can take the factor of a gate: what stands between them and the block, and who else sees it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, DropPath, LayerNorm2d, LayerScale2d, StdConv2d
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from sesurgeon import UsageError
from sesurgeon.surgery import Folding, fold
from tests.networks import ResidualBlock
from tests.surgery.trained import IMAGES, assert_same, augmented


def assert_folded(net: nn.Module, **choices: Any) -> Folding:
    model = augmented(net, **choices)
    folding = fold(model)
    assert folding.left == ()
    assert folding.folded
    assert_same(folding.model, model)
    return folding


def assert_left(
    net: nn.Module, reason: str, prepare: Callable[[nn.Module], object] = lambda _: None, **choices: Any
) -> None:
    model = augmented(net, **choices)
    prepare(model)
    folding = fold(model)
    assert folding.folded == ()
    assert [re.search(reason, item.reason) is not None for item in folding.left] == [True], folding.left
    assert_same(folding.model, model)


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.branch(x)
        return result


def net_of(block: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def net_ending(*after: nn.Module) -> nn.Module:
    """With a residual branch of a convolution and these."""
    return net_of(Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *after)))


# -- leaf modules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after",
    [
        nn.BatchNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8, affine=True),
        BatchNormAct2d(8),
        Conv2dSame(8, 8, 3),
        LayerNorm2d(8),
        FrozenBatchNorm2d(8),
        nn.Sequential(nn.ReLU(), nn.Sequential(), nn.Identity()),
        nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(3, 1, 1)),
        nn.Sequential(nn.PReLU(8), nn.AvgPool2d(3, 1, 1), nn.Dropout2d(0.5)),
        nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.ZeroPad2d(0)),
        nn.Sequential(LayerScale2d(8, 0.7), DropPath(0.5), StochasticDepth(0.5, "row")),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_factor_passes(after: nn.Module) -> None:
    assert assert_folded(net_ending(after)).folded == ("1.se",)


class Noisy(nn.Dropout):
    """Named as what a factor passes, but it is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if self.training else x


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (nn.SiLU(), r"no factor passes through 1 \(SiLU\) before the block"),
        (nn.ReLU6(), r"no factor passes through 1 \(ReLU6\) before the block"),
        (nn.GELU(), r"no factor passes through 1 \(GELU\) before the block"),
        (Noisy(), r"no factor passes through 1 \(Noisy\) before the block"),
        (nn.BatchNorm2d(8, affine=False), r"1\.branch\.1 \(BatchNorm2d\), before the block, has no weight"),
        (
            StdConv2d(8, 8, 3, padding=1),
            r"branch\.1 \(StdConv2d\), before the block, is not exactly proportional to its weight and bias",
        ),
    ],
    ids=["SiLU", "ReLU6", "GELU", "a noisy dropout", "no affine", "standardised weight"],
)
def test_a_factor_does_not_pass(after: nn.Module, reason: str) -> None:
    assert_left(net_ending(after), reason)


# -- functions -------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A residual branch that ends in ``end(self, x)``, after one convolution."""

    def __init__(self, end: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.weight, self.end = nn.Parameter(torch.randn(8, 8, 1, 1)), end

    def forward(self, x: Tensor) -> Tensor:
        return x + self.end(self, self.conv(x))


@pytest.mark.parametrize(
    "end",
    [
        lambda block, x: F.relu(block.norm(x)).clone(),
        lambda block, x: F.conv2d(x, block.weight),
        lambda block, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / 3 * 0.3,
        lambda block, x: F.dropout(x, 0.5, block.training).permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda block, x: block.other(x) + block.norm(x),
        lambda block, x: torch.cat([block.other(x), block.norm(x)], 1)[:, 4:12],
        lambda block, x: block.other(x) * torch.rand(x.shape[0], 1, 1, 1),
        lambda block, x: F.avg_pool2d(F.interpolate(block.other(x), scale_factor=2, mode="nearest"), 2),
        lambda block, x: torch.add(block.other(x), other=block.norm(x)),
        lambda block, x: block.other(x).add(other=block.norm(x)),
        lambda block, x: torch.sub(input=block.other(x), other=block.norm(x)),
        lambda block, x: block.other(x) + torch.div(F.relu(input=block.norm(x)), other=2),
    ],
    ids=["relu", "conv2d", "pad", "permute", "add", "cat", "mul", "interpolate", "add=", ".add=", "sub=", "div="],
)
def test_a_factor_passes_functions(end: Callable[[Any, Tensor], Tensor]) -> None:
    assert_folded(net_of(Functional(end)))


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda block, x: F.hardswish(x), "no factor passes through hardswish"),
        (lambda block, x: block.norm(x) + 1, "no factor passes through add"),
        (lambda block, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 3, 1), "no factor passes through pad"),
        (lambda block, x: F.relu(torch.div(x, 0.1, rounding_mode="floor")), "no factor passes through div"),
        (lambda block, x: (y := block.norm(x)) * y, "no factor passes through mul"),
        (lambda block, x: torch.mul(y := block.norm(x), other=y), "no factor passes through mul"),
        (lambda block, x: torch.sub(block.norm(x), other=1), "no factor passes through sub"),
        (
            lambda block, x: (y := block.norm(x)) + F.relu(y),
            "the tensor norm, before the block, is also used elsewhere",
        ),
        (lambda block, x: F.conv2d(x, block.weight.tanh()), "the weight of conv2d, before the block, is not"),
        (lambda block, x: F.layer_norm(x, x.shape[1:]), "the weight of layer_norm, before the block, is"),
        (lambda block, x: block.other(block.other(x)), "1.other, before the block, also runs for other tensors"),
        (lambda block, x: block.other(x) + block.weight.sum(), "no factor passes through"),
        (
            lambda block, x: F.conv2d(F.conv2d(x, block.weight), block.weight),
            "1.weight, of the layer before the block, is also used by another layer",
        ),
        (
            lambda block, x: block.other(F.conv2d(x, block.other.weight)),
            "1.other.weight, of the layer before the block, is also used by another layer",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_factor_does_not_pass_functions(end: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    assert_left(net_of(Functional(end)), reason)


# -- who else sees it ------------------------------------------------------------------------------------------------


def last(model: nn.Module) -> nn.Module:
    return model.get_submodule("1.branch.1")


def test_a_hook_would_see_other_values() -> None:
    net = net_ending(nn.BatchNorm2d(8))
    reason = r"a hook on 1\.branch\.1, before the block, would see other values"
    assert_left(net, reason, lambda model: last(model).register_forward_hook(lambda *_: None))


def test_a_hook_inside_a_norm_would_see_other_values() -> None:
    net = net_ending(BatchNormAct2d(8))
    reason = r"a hook on 1\.branch\.1, before the block, would see other values"
    assert_left(net, reason, lambda model: model.get_submodule("1.branch.1.act").register_forward_hook(lambda *_: None))


def test_a_parametrised_weight_is_computed() -> None:
    def parametrise(model: nn.Module) -> None:
        parametrize.register_parametrization(last(model), "weight", nn.Tanh())

    assert_left(
        net_ending(nn.Conv2d(8, 8, 1)), "the weight of conv2d, before the block, is not a parameter", parametrise
    )


def test_a_network_without_the_places_of_its_blocks_cannot_be_folded() -> None:
    model = augmented(net_of(nn.Sequential(ResidualBlock(8), nn.ReLU())))
    model[1][0] = nn.Identity()  # type: ignore[index, operator]
    with pytest.raises(UsageError, match=r"cannot be folded: its block 1\.0\.se is not there any more"):
        fold(model)


def test_tied_weights_belong_to_two() -> None:
    first = nn.Conv2d(8, 8, 1)
    second = nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    assert_left(
        net_ending(first, nn.SiLU(), second), r"1\.branch\.3\.weight, of the layer before the block, is also used"
    )


def test_weights_near_overflow_stay() -> None:
    net = net_ending(nn.Conv2d(8, 8, 1))

    def enlarge(model: nn.Module) -> None:
        with torch.no_grad():
            last(model).bias.fill_(3e38)  # type: ignore[union-attr, operator]

    model = augmented(net)
    enlarge(model)
    folding = fold(model)
    assert [item.reason for item in folding.left] == [
        "1.branch.1.bias, of the layer before the block, is too large for a factor of 2"
    ]


def test_a_gate_without_a_factor_stays() -> None:
    assert_left(net_ending(), "its gate has no factor that its weights could take exactly", gate="tanh")


# -- the places of the paper -----------------------------------------------------------------------------------------


class Projected(nn.Module):
    """A residual block whose shortcut is a projection."""

    def __init__(self, joined: Callable[[Tensor, Tensor], Tensor] = operator.add) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.joined = joined

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.joined(self.branch(x), self.project(x)))


@pytest.mark.parametrize(
    ("block", "policy", "reason"),
    [
        (ResidualBlock(8), "pre", "its tensor is also used without the block"),
        (ResidualBlock(8), "identity", "its tensor is also used without the block"),
        (ResidualBlock(8), "post", "the tensor x, before the block, is also used elsewhere"),
        (Projected(), "pre", "its tensor is also used without the block"),
    ],
)
def test_a_shared_tensor_cannot_be_scaled(block: nn.Module, policy: str, reason: str) -> None:
    assert_left(net_of(block), reason, policy=policy)


@pytest.mark.parametrize(
    ("policy", "tensors"),
    [
        ("identity", {"1.project.1.weight", "1.project.1.bias"}),
        ("post", {"1.project.1.weight", "1.project.1.bias", "1.branch.2.weight", "1.branch.2.bias"}),
    ],
)
def test_a_projection_takes_the_factor(policy: str, tensors: set[str]) -> None:
    from sesurgeon.surgery import plan_of

    plan = plan_of(assert_folded(net_of(Projected()), policy=policy).model)
    assert plan is not None
    assert set(plan.entries[0].folded) == tensors


ADDED_BY_KEYWORD = (
    lambda x, y: torch.add(x, other=y),
    lambda x, y: x.add(other=y),
    lambda x, y: torch.add(x, other=torch.div(y, other=2)),
)


@pytest.mark.parametrize("joined", ADDED_BY_KEYWORD, ids=["add", ".add", "div"])
def test_a_sum_written_with_keywords_takes_the_factor(joined: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert_folded(net_of(Projected(joined)), policy="post")


def test_of_two_blocks_in_a_row_the_first_can_be_folded() -> None:
    model = augmented(net_of(Projected()), policy=["standard", "post"])
    folding = fold(model)
    assert folding.folded == ("1.se",)
    assert [item.reason for item in folding.left] == ["there is another block before it, after branch"]
    assert_same(folding.model, model)


class Called(nn.Module):
    """A block that is called twice: its layers take the factor for both calls."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ResidualBlock(8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(self.block(x))
        return result


def test_a_block_that_runs_twice_takes_its_layers_along() -> None:
    assert assert_folded(net_of(Called())).folded == ("1.block.se",)


class ChannelsLast(nn.Module):
    """As ConvNeXt's: the branch ends in a linear layer, with the channels in the last dimension, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(F.gelu(self.fc1(self.conv(x).permute(0, 2, 3, 1))))
        return x + (y * self.gamma).permute(0, 3, 1, 2)


def test_a_linear_layer_takes_the_factor() -> None:
    folding = assert_folded(net_of(ChannelsLast()))
    assert torch.equal(folding.model(IMAGES), folding.model(IMAGES))
