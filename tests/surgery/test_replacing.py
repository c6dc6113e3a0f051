"""Constants in place of a block: which layers take them, and what the network gives then."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, DropPath, LayerNorm2d, LayerScale2d, StdConv2d
from torch import Tensor, nn

import sesurgeon
from sesurgeon import UsageError, VerificationError, add_se, fold_gate_scale, remove_se
from sesurgeon.surgery import blocks_of, plan_of
from sesurgeon.surgery.folding.constants import Replacement, replace_block
from sesurgeon.surgery.folding.walk import NoTakerError
from tests.networks import OddNet, PlainNet, ResidualBlock, trained_like
from tests.surgery.test_fold_walk import (
    ADDED_BY_KEYWORD,
    ChannelsLast,
    Functional,
    Projected,
    Residual,
    net_ending,
    net_of,
)
from tests.surgery.trained import IMAGES, assert_same, augmented, outputs


def constants_for(channels: int) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(3)) * 1.9 + 0.05


def constant(model: nn.Module, path: str, constants: Tensor) -> nn.Module:
    """``model`` with gates that give these constants whatever comes in."""
    model = copy.deepcopy(model)
    block = model.get_submodule(path)
    with torch.no_grad():
        nn.init.zeros_(block.get_parameter("fc2.weight"))
        block.get_parameter("fc2.bias").copy_(torch.logit(constants / 2))
    return model


def assert_replaced(net: nn.Module, path: str = "1.se", images: Tensor = IMAGES, **choices: Any) -> Replacement:
    """The constants of a block go into other layers, and the outputs stay but for rounding."""
    model = augmented(net, images, **choices)
    constants = constants_for(int(model.get_submodule(path).get_parameter("fc2.bias").numel()))
    model = constant(model, path, constants)
    found = replace_block(model, path, constants)
    assert path not in blocks_of(found.model)
    assert found.difference < 1e-4
    others = images.flip(0) * 1.7
    for training in (False, True):
        ours, theirs = (outputs(one, others, training=training).detach() for one in (found.model, model))
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        without = outputs(remove_se(model), others, training=training)
        assert not torch.allclose(ours, without, rtol=1e-2)  # the constants do matter
    return found


def assert_refused(net: nn.Module, reason: str, path: str = "1.se", **choices: Any) -> None:
    model = augmented(net, **choices)
    channels = int(model.get_submodule(path).get_parameter("fc2.bias").numel())
    with pytest.raises(NoTakerError) as error:
        replace_block(model, path, constants_for(channels))
    assert re.search(reason, str(error.value)), str(error.value)


class Blurred(nn.Module):
    """A residual block whose branch ends in a fixed kernel."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("kernel", torch.rand(8, 1, 3, 3), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + F.conv2d(self.conv(x), self.kernel, padding=1, groups=8))


def test_what_no_file_keeps_takes_nothing() -> None:
    found = assert_replaced(net_of(Blurred(persistent=True)))
    assert found.tensors == ("1.kernel",)
    assert_refused(
        net_of(Blurred(persistent=False)),
        r"1\.kernel, of the layer before the block, is a buffer that no state dict keeps",
    )
    with pytest.warns(UserWarning, match="no state dict keeps"):
        fold_gate_scale(augmented(net_of(Blurred(persistent=False))))


# -- into the layer before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "takers"),
    [
        (nn.BatchNorm2d(8), ("1.branch.1.bias", "1.branch.1.weight")),
        (nn.Conv2d(8, 8, 1), ("1.branch.1.bias", "1.branch.1.weight")),
        (nn.Identity(), ("1.branch.0.bias", "1.branch.0.weight")),
        (nn.GroupNorm(2, 8), ("1.branch.1.bias", "1.branch.1.weight")),
        (LayerNorm2d(8), ("1.branch.1.bias", "1.branch.1.weight")),
        (BatchNormAct2d(8), ("1.branch.1.bias", "1.branch.1.weight")),
        (
            nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)),
            ("1.branch.0.bias", "1.branch.0.weight"),
        ),
        (
            nn.Sequential(LayerScale2d(8, 0.7), DropPath(0.2), nn.Dropout2d(0.1), nn.PReLU(8)),
            ("1.branch.0.bias", "1.branch.0.weight"),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_layer_before_takes_them(after: nn.Module, takers: tuple[str, ...]) -> None:
    assert assert_replaced(net_ending(after)).tensors == takers


def test_the_weights_are_multiplied_by_hand() -> None:
    model = augmented(PlainNet())
    constants = torch.tensor([0.0, 0.25, 1, 3, 1.5, 0.5, 1, 2])
    found = replace_block(model, "2.se", constants)
    before, after = model.state_dict(), found.model.state_dict()
    assert list(after) == [name for name in before if not name.startswith("2.se")]
    for name, value in after.items():
        by = constants if name in ("1.weight", "1.bias") else 1
        assert torch.equal(value, before[name] * by)


@pytest.mark.parametrize(
    ("end", "names"),
    [
        (lambda block, x: F.relu(block.norm(x)).clone(), {"1.norm.weight", "1.norm.bias"}),
        (lambda block, x: F.conv2d(x, block.weight), {"1.weight"}),
        (
            lambda block, x: block.other(x) + block.norm(x),
            {"1.norm.weight", "1.norm.bias", "1.other.weight", "1.other.bias"},
        ),
        (
            lambda block, x: F.avg_pool2d(F.interpolate(block.other(x), scale_factor=2), 2) / 3,
            {"1.other.weight", "1.other.bias"},
        ),
    ],
    ids=["relu", "conv2d", "add", "interpolate"],
)
def test_functions_are_followed(end: Callable[[Any, Tensor], Tensor], names: set[str]) -> None:
    assert set(assert_replaced(net_of(Functional(end))).tensors) == names


def test_both_sides_of_a_difference_by_keyword_take_them() -> None:
    net = net_of(Functional(lambda block, x: torch.sub(block.other(x), other=torch.div(block.norm(x), other=3))))
    found = assert_replaced(net, policy="post")
    assert set(found.tensors) == {"1.norm.weight", "1.norm.bias", "1.other.weight", "1.other.bias"}


class Joined(nn.Module):
    """Two branches, concatenated: each takes its own part."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(8, 3, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.BatchNorm2d(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], 1)


def test_each_branch_of_a_concatenation_takes_its_part() -> None:
    found = assert_replaced(net_of(Joined()))
    assert found.tensors == ("1.a.0.bias", "1.a.0.weight", "1.b.1.bias", "1.b.1.weight")


def test_channels_that_come_last_are_followed_through_permutations() -> None:
    assert assert_replaced(net_of(ChannelsLast())).tensors == ("1.fc2.bias", "1.fc2.weight")


@pytest.mark.parametrize("joined", [operator.add, *ADDED_BY_KEYWORD], ids=["+", "add", ".add", "div"])
def test_both_summands_take_them_where_both_can(joined: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = assert_replaced(net_of(Projected(joined)), policy="post")
    assert set(found.tensors) == {"1.project.1.weight", "1.project.1.bias", "1.branch.2.weight", "1.branch.2.bias"}


# -- into the layer behind -------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """A branch with an activation that no factor passes, so that only what comes behind can take them."""

    def __init__(self, behind: nn.Module, depthwise: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8 if depthwise else 1)
        self.norm, self.act, self.behind = nn.BatchNorm2d(8), nn.SiLU(), behind

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.behind(self.act(self.norm(self.conv(x))))
        return result


class Classifier(nn.Module):
    """A linear layer behind a function that leaves one value a channel."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.last = function, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(x))
        return result


@pytest.mark.parametrize(
    ("behind", "taker"),
    [
        (nn.Conv2d(8, 8, 1), "1.behind.weight"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"), "1.behind.weight"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), "1.behind.weight"),
        (nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)), "1.behind.1.weight"),
    ],
    ids=["conv", "depthwise", "grouped", "in a Sequential, behind a pooling"],
)
def test_the_layer_behind_takes_them_where_the_one_before_cannot(behind: nn.Module, taker: str) -> None:
    found = assert_replaced(net_of(Gated(behind)), policy="inner")
    assert found.tensors == (taker,)


@pytest.mark.parametrize(
    "pooled",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(2), nn.Flatten()),
        lambda x: F.adaptive_avg_pool2d(x, 1).view(-1, 8),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda x: x.mean((2, 3)),
        lambda x: torch.div(torch.mean(input=x, dim=(2, 3)), other=2),
        lambda x: x.sum(-1, keepdim=True).mean(dim=2).reshape(x.shape[0], -1),
        lambda x: x.flatten(2).mean(-1).unsqueeze(1).squeeze(1),
        lambda x: x.flatten(2).permute(0, 2, 1).mean(1),
    ],
)
def test_the_classifier_takes_those_of_the_last_block(pooled: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), ResidualBlock(8), Classifier(pooled))
    assert assert_replaced(net, policy="post").tensors == ("2.last.weight",)


@pytest.mark.parametrize(
    ("pooled", "operation"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(16, 8)), r"1 \(Flatten\)"),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 4)).reshape(-1, 8, 8).mean(1), "mean"),
        (lambda x: F.adaptive_avg_pool2d(x, (1, 2)).transpose(1, 3).reshape(-1, 8), "transpose"),
        (lambda x: x.mean(1).mean(1), "mean"),
        (lambda x: x.mean() + torch.zeros(1, 8), "mean"),
    ],
)
def test_channels_that_lie_among_places_or_are_gone_take_nothing(
    pooled: Callable[[Tensor], Tensor], operation: str
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), ResidualBlock(8), Classifier(pooled))
    assert_refused(net, f"also used elsewhere, and no factor passes through {operation} after the block", policy="post")


def test_in_front_of_a_branch_its_first_convolution_takes_them() -> None:
    assert assert_replaced(net_of(ResidualBlock(8)), policy="pre").tensors == ("1.conv1.weight",)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (
            nn.ConvTranspose2d(8, 8, 1),
            r"no factor passes through act .SiLU. before the block, and no factor passes through behind",
        ),
        (StdConv2d(8, 8, 3, padding=1), r"1\.behind \(StdConv2d\), after the block, is not exactly proportional"),
        (nn.Sequential(nn.GELU(), nn.Conv2d(8, 8, 1)), r"no factor passes through 0 \(GELU\) after the block"),
        (
            nn.Sequential(nn.ChannelShuffle(2), nn.Conv2d(8, 8, 1)),
            r"no factor passes through 0 \(ChannelShuffle\) after the block",
        ),
    ],
    ids=["transposed", "standardised weight", "GELU", "ChannelShuffle"],
)
def test_where_no_layer_can_take_them_both_reasons_are_told(behind: nn.Module, reason: str) -> None:
    assert_refused(net_of(Gated(behind)), reason, policy="inner")


def test_a_sum_with_a_shortcut_takes_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), ResidualBlock(8), ResidualBlock(8), nn.AdaptiveAvgPool2d(1))
    assert_refused(net, "the tensor x, before the block, is also used elsewhere, and several", policy="post")


def test_a_shuffle_of_channels_takes_nothing() -> None:
    assert_refused(net_ending(nn.ChannelShuffle(2)), "no factor passes through 1 .ChannelShuffle. before the block")


def test_negative_constants_are_refused() -> None:
    with pytest.raises(NoTakerError, match="some of its constants are negative"):
        replace_block(augmented(PlainNet()), "2.se", torch.full((8,), -1.0))


# -- the network afterwards ------------------------------------------------------------------------------------------


def test_constants_of_1_take_the_block_out_and_change_no_bit() -> None:
    net = trained_like(OddNet())
    model = add_se(net, IMAGES)
    path = next(iter(blocks_of(model)))
    found = replace_block(model, path, torch.ones(8))
    assert (found.tensors, found.difference) == ((), 0.0)
    assert_same(found.model, model)
    assert list(blocks_of(found.model)) == list(blocks_of(model))[1:]
    assert_same(remove_se(found.model), net)


def test_the_block_goes_and_the_others_stay_as_they_are() -> None:
    model = augmented(OddNet())
    before = copy.deepcopy(model.state_dict())
    blocks = list(blocks_of(model))
    plan = plan_of(model)
    constants = torch.tensor([0.0, 0.25, 1, 3, 1.5, 0.5, 1, 2])
    found = replace_block(model, blocks[1], constants)
    ours = plan_of(found.model)
    assert plan is not None
    assert ours is not None
    assert ours.entries == (plan.entries[0], *plan.entries[2:])
    assert list(blocks_of(found.model)) == [blocks[0], *blocks[2:]]
    for name, value in found.model.state_dict().items():
        taken = name in found.tensors
        assert torch.equal(value, before[name] * (constants if taken else 1)), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_its_last_block_a_network_is_a_plain_one(tmp_path: Path) -> None:
    model = augmented(net_ending(nn.BatchNorm2d(8)))
    last = replace_block(model, "1.se", constants_for(8)).model
    assert plan_of(last) is None
    assert blocks_of(last) == {}
    sesurgeon.save(last, tmp_path / "plain.pt")
    assert_same(sesurgeon.load(tmp_path / "plain.pt", trust_pickle=True), last)
    assert add_se(last, IMAGES) is not None


def test_it_is_kept_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = augmented(OddNet())
    pruned = replace_block(model, next(iter(blocks_of(model))), constants_for(8)).model
    sesurgeon.save(pruned, tmp_path / "odd.pt")
    again = sesurgeon.load(tmp_path / "odd.pt", trust_pickle=True)
    assert plan_of(again) == plan_of(pruned)
    assert_same(again, pruned)


@pytest.mark.filterwarnings("ignore:Blocks keep the factor")
def test_what_was_folded_before_is_unfolded_after() -> None:
    model = augmented(OddNet())
    folded = fold_gate_scale(model)
    path = list(blocks_of(model))[1]
    pruned = replace_block(folded, path, constants_for(8) / 2)
    other = replace_block(model, path, constants_for(8))
    ours, theirs = remove_se(pruned.model).state_dict(), remove_se(other.model).state_dict()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-6)


def test_the_rest_can_be_folded_after() -> None:
    model = augmented(PlainNet())
    pruned = replace_block(model, "2.se", constants_for(8)).model
    assert_same(fold_gate_scale(pruned), pruned)


def test_what_it_cannot_do_is_told() -> None:
    model = augmented(PlainNet())
    with pytest.raises(UsageError, match="no inserted block nowhere in this PlainNet"):
        replace_block(model, "nowhere", torch.ones(8))
    with pytest.raises(UsageError, match=r"2\.se scales 8 channels, not \(3,\)"):
        replace_block(model, "2.se", torch.ones(3))
    with pytest.raises(UsageError, match=r"cannot be pruned.*no plan of its own"):
        replace_block(nn.Sequential(model), "0.2.se", torch.ones(8))


def test_a_difference_beyond_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sesurgeon.surgery.folding.constants.multiply", lambda *_: None)
    model = augmented(net_ending(nn.BatchNorm2d(8)))
    with pytest.raises(VerificationError, match=r"Without the block 1\.se the outputs in eval mode are not those"):
        replace_block(model, "1.se", constants_for(8))


def test_a_block_in_a_residual_module_of_ones_own() -> None:
    assert assert_replaced(net_of(Residual(nn.Conv2d(8, 8, 1)))).tensors == ("1.branch.bias", "1.branch.weight")
