from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import timm.layers
from timm.layers.cbam import CbamModule
from timm.layers.global_context import GlobalContext
from timm.layers.squeeze_excite import SEModule
from torch import nn

from sesurgeon.blocks import Block, BlockConfig, Cbam, SqueezeExcite, TwiceHardSigmoid, build_block
from sesurgeon.blocks.config import BlockName
from sesurgeon.errors import UsageError
from tests.blocks.cases import CASES, SQUEEZES, label

CHANNELS = [1, 7, 8, 24, 64, 100, 256, 2048]


@pytest.mark.parametrize("block", ["se", "cbam", "gc", "ge"])
def test_the_width_is_rounded_as_timm_rounds(block: BlockName) -> None:
    for channels, divisor, ratio in product(CHANNELS, (1, 8, 16), (1 / 16, 1 / 4)):
        expected = timm.layers.make_divisible(channels * ratio, divisor, round_limit=0.0)
        assert BlockConfig(block, rd_ratio=ratio, rd_divisor=divisor).squeezed(channels) == expected


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_width_is_timms_by_default(channels: int) -> None:
    assert BlockConfig("se").squeezed(channels) == SEModule(channels).fc1.out_channels
    assert BlockConfig("cbam").squeezed(channels) == CbamModule(channels).channel.fc1.out_channels
    assert BlockConfig("gc").squeezed(channels) == GlobalContext(channels).mlp_scale.fc1.out_channels


def test_the_width_by_hand() -> None:
    widths = {block: BlockConfig(block).squeezed(200) for block in ("se", "ese", "eca", "cbam", "gc", "ge")}
    assert widths == {"se": 16, "ese": None, "eca": None, "cbam": 13, "gc": 25, "ge": 13}


def test_rd_channels_wins_over_the_ratio() -> None:
    block = build_block(BlockConfig(rd_ratio=1 / 4, rd_channels=3), 64)
    assert block.get_parameter("fc1.weight").shape == (3, 64, 1, 1)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        BlockConfig("sse", 0, 0, 0, "zeros", "sum", "relu", extent=3, bias="no", plain=1)  # type: ignore[arg-type]
    for words in (
        "block (='sse') must be one of: se, ese, eca, cbam, gc, ge",
        "rd_ratio (=0)",
        "rd_channels (=0)",
        "rd_divisor (=0)",
        "init (='zeros') must be one of: identity, random",
        "squeeze (='sum') must be one of: avg, max",
        "gate (='relu') must be one of: sigmoid, hard-sigmoid, tanh",
        "extent (=3) must be 0 or an even number",
        "bias (='no')",
        "plain (=1)",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("settings", [
    {"block": ["se"]}, {"rd_ratio": "1/16"}, {"rd_ratio": True}, {"rd_channels": 2.0}, {"rd_divisor": "8"},
    {"squeeze": None}, {"gate": 1}, {"extent": -2, "block": "ge"}, {"extent": "2", "block": "ge"}, {"init": None},
])  # fmt: skip
def test_settings_of_another_type_are_usage_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BlockConfig(**settings)


@pytest.mark.parametrize(("block", "settings"), [
    ("se", {"extent": 2}),
    ("ese", {"rd_ratio": 1 / 8, "rd_channels": 4, "rd_divisor": 1}),
    ("eca", {"rd_ratio": 1 / 8, "bias": False}),
    ("cbam", {"squeeze": "max"}),
    ("gc", {"squeeze": "max", "bias": False}),
    ("ge", {"bias": False}),
])  # fmt: skip
def test_a_setting_that_the_block_does_not_have_is_an_error(block: BlockName, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        BlockConfig(block, **settings)
    for name, value in settings.items():
        assert f"{name} (={value}) is no setting of block '{block}'" in str(caught.value)


def test_one_plus_tanh_cannot_be_plain() -> None:
    with pytest.raises(UsageError, match="tanh"):
        BlockConfig(gate="tanh", plain=True)
    assert isinstance(
        build_block(BlockConfig(gate="tanh", init="random", plain=True), 8).get_submodule("gate"), nn.Tanh
    )


@pytest.mark.parametrize("config", [*CASES.values(), *SQUEEZES], ids=label)
def test_plain_data_gives_the_config_back(config: BlockConfig) -> None:
    assert BlockConfig(**config.to_dict()) == config


def test_plain_data_holds_what_differs_from_the_defaults() -> None:
    assert BlockConfig().to_dict() == {"block": "se"}
    assert BlockConfig("ge", rd_ratio=1 / 4, extent=2, plain=True).to_dict() == {
        "block": "ge",
        "rd_ratio": 1 / 4,
        "extent": 2,
        "plain": True,
    }


def test_what_is_built() -> None:
    assert isinstance(build_block(BlockConfig(gate="hard-sigmoid"), 8).get_submodule("gate"), TwiceHardSigmoid)
    cbam = build_block(BlockConfig("cbam", gate="hard-sigmoid", plain=True), 8)
    assert isinstance(cbam, Cbam)
    assert isinstance(cbam.channel.gate, nn.Hardsigmoid)
    assert isinstance(cbam.spatial.gate, nn.Hardsigmoid)
    without = build_block(BlockConfig(bias=False), 8)
    assert isinstance(without, SqueezeExcite)
    assert set(without.state_dict()) == {"fc1.weight", "fc2.weight"}


@pytest.mark.parametrize(("spatial_dims", "channel_dim"), [(0, 1), (4, 1), (2, 2), (2, 0)])
def test_an_unknown_layout_is_an_error(spatial_dims: int, channel_dim: int) -> None:
    with pytest.raises(UsageError, match=rf"spatial_dims \(={spatial_dims}\) and channel_dim \(={channel_dim}\)"):
        build_block(BlockConfig(), 8, spatial_dims=spatial_dims, channel_dim=channel_dim)


def parameters(block: Block) -> int:
    return sum(parameter.numel() for parameter in block.parameters())


@pytest.mark.parametrize(("config", "spatial_dims", "expected"), [
    # 64 -> 8 -> 64: (64 * 8 + 8) + (8 * 64 + 64)
    (BlockConfig("se"), 2, 520 + 576),
    # 64 -> 8 -> 64 without biases
    (BlockConfig("se", bias=False), 3, 512 + 512),
    # 64 * 64 + 64
    (BlockConfig("ese"), 2, 4160),
    # log2(64) = 6, (6 + 1) / 2 = 3.5: 3 weights
    (BlockConfig("eca"), 2, 3),
    # 64 -> 4 -> 64 without biases; a 7x7 kernel on 2 channels; its normalisation's weight and bias
    (BlockConfig("cbam"), 2, 256 + 256 + 98 + 2),
    # the same with a kernel of 7, and with one of 7x7x7
    (BlockConfig("cbam"), 1, 256 + 256 + 14 + 2),
    (BlockConfig("cbam"), 3, 256 + 256 + 686 + 2),
    # attention 64 + 1; 64 -> 8 -> 64: 64 * 8 + 8, 8 * 64 + 64; the normalisation's 8 weights and 8 biases
    (BlockConfig("gc"), 2, 65 + 520 + 576 + 16),
    # 64 -> 4 -> 64: (64 * 4 + 4) + (4 * 64 + 64)
    (BlockConfig("ge"), 2, 260 + 320),
    (BlockConfig("ge", extent=4), 2, 260 + 320),
])  # fmt: skip
def test_parameters_of_one_block_by_hand(config: BlockConfig, spatial_dims: int, expected: int) -> None:
    assert parameters(build_block(config, 64, spatial_dims=spatial_dims)) == expected


@pytest.mark.parametrize(("channels", "weights"), [(2, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_eca_reaches_over_more_channels_in_wider_layers(channels: int, weights: int) -> None:
    # (log2(128) + 1) / 2 = 4, next odd 5; 256: 4.5 -> 4 -> 5; 512: 5; 2048: 6 -> 7
    assert parameters(build_block(BlockConfig("eca"), channels)) == weights
