from __future__ import annotations

import pytest
import timm.layers
import torch
from timm.layers.squeeze_excite import SEModule
from torch import nn

from sesurgeon.blocks import BlockConfig, SqueezeExcite, TwiceSigmoid, build_block
from sesurgeon.errors import UsageError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_gate_is_exactly_one_at_zero(dtype: torch.dtype) -> None:
    assert torch.equal(TwiceSigmoid()(torch.zeros(3, dtype=dtype)), torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 16, 9), (2, 16, 5, 7), (2, 16, 3, 5, 7)])
def test_a_fresh_block_is_the_identity(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    block = SqueezeExcite(16, 4, spatial_dims=len(shape) - 2).to(dtype)
    assert torch.equal(block(x), x)


def test_channels_last_in_the_last_dimension_gives_what_channels_first_gives() -> None:
    torch.manual_seed(0)
    first = SqueezeExcite(16, 4, identity=False).double()
    last = SqueezeExcite(16, 4, identity=False, channel_dim=-1).double()
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 16, 5, 7).double()
    torch.testing.assert_close(last(x.movedim(1, -1)).movedim(-1, 1), first(x), rtol=1e-12, atol=1e-12)


def test_the_random_block_is_timms_bit_for_bit() -> None:
    theirs = SEModule(32, rd_ratio=1 / 4)
    ours = SqueezeExcite(32, 8, identity=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 32, 6, 6)
    assert torch.equal(ours(x), theirs(x))


def test_all_parameters_learn_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(16, 4)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x = torch.randn(4, 16, 5, 5)
    alive = []
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * torch.randn_like(x)).sum().backward()
        optimizer.step()
        alive.append({name for name, p in block.named_parameters() if p.grad is not None and p.grad.any()})
    assert alive == [{"fc2.weight", "fc2.bias"}, {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}]


@pytest.mark.parametrize("channels", [1, 7, 8, 24, 64, 100, 256, 2048])
@pytest.mark.parametrize("divisor", [1, 8, 16])
@pytest.mark.parametrize("ratio", [1 / 16, 1 / 4])
def test_the_width_is_rounded_as_timm_rounds(channels: int, divisor: int, ratio: float) -> None:
    expected = timm.layers.make_divisible(channels * ratio, divisor, round_limit=0.0)
    assert BlockConfig(rd_ratio=ratio, rd_divisor=divisor).squeezed(channels) == expected


def test_rd_channels_wins_over_the_ratio() -> None:
    block = build_block(BlockConfig(rd_channels=3), 64)
    assert block.get_parameter("fc1.weight").shape == (3, 64, 1, 1)


def test_parameters_of_one_block_by_hand() -> None:
    # 256 -> 16 -> 256 with biases: 256 * 16 + 16 + 16 * 256 + 256
    block: nn.Module = build_block(BlockConfig(), 256)
    assert sum(p.numel() for p in block.parameters()) == 4096 + 16 + 4096 + 256


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        BlockConfig(block="sse", rd_ratio=0, rd_channels=0, rd_divisor=0, init="zeros")  # type: ignore[arg-type]
    for name in ("block (='sse') must be one of: se", "rd_ratio", "rd_channels", "rd_divisor", "init"):
        assert name in str(caught.value)
