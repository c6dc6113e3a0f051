from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sesurgeon.blocks import BlockConfig, GateName, build_block
from tests.blocks.cases import CASES, CHANNELS, GATES, LAYOUTS, SQUEEZES, label, tensor, trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("spatial_dims", "channel_dim"), LAYOUTS)
@pytest.mark.parametrize("config", [*CASES.values(), *SQUEEZES], ids=label)
def test_a_fresh_block_is_the_identity(
    config: BlockConfig, spatial_dims: int, channel_dim: int, dtype: torch.dtype
) -> None:
    x = tensor(spatial_dims, channel_dim, dtype)
    for gate in GATES:
        block = build_block(
            replace(config, gate=gate), CHANNELS, spatial_dims=spatial_dims, channel_dim=channel_dim
        ).to(dtype)
        for training in (True, False):
            assert torch.equal(block.train(training)(x), x)


def dead_parameters(config: BlockConfig, channels: int) -> set[str]:
    """The parameters that get no gradient in the second step."""
    block = build_block(config, channels)
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-3)
    x = torch.randn(4, channels, 9, 9)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * torch.randn_like(x)).sum().backward()
        optimizer.step()
    return {name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("config", [CASES["se-without-bias"], *SQUEEZES], ids=label)
def test_all_parameters_learn_from_the_second_step_on(config: BlockConfig, gate: GateName) -> None:
    torch.manual_seed(0)
    # a softmax does not see what is added to all its logits: the gradient of conv_attn.bias is nothing but rounding
    assert dead_parameters(replace(config, gate=gate), 64) - {"conv_attn.bias"} == set()


@pytest.mark.parametrize("config", [config for config in SQUEEZES if config.block in ("cbam", "ge")], ids=label)
def test_narrow_layers_do_not_start_dead(config: BlockConfig) -> None:
    assert config.squeezed(32) == 2
    for seed in range(10):
        torch.manual_seed(seed)
        assert dead_parameters(config, 32) == set()


@pytest.mark.parametrize("config", [BlockConfig("cbam"), BlockConfig("ge", squeeze="max")], ids=label)
def test_a_lone_squeezed_channel_is_alive_where_maxima_are_positive(config: BlockConfig) -> None:
    assert config.squeezed(8) == 1
    for seed in range(10):
        torch.manual_seed(seed)
        assert dead_parameters(config, 8) == set()


@pytest.mark.parametrize("config", [*CASES.values(), *SQUEEZES], ids=label)
def test_the_tensor_itself_is_not_changed(config: BlockConfig) -> None:
    torch.manual_seed(0)
    x = tensor()
    before, version = x.clone(), x._version
    y = trained(config)(x)
    assert not torch.equal(y, before)
    assert (x._version, torch.equal(x, before)) == (version, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [*CASES.values(), *SQUEEZES], ids=label)
def test_a_fresh_block_is_the_identity_under_autocast(config: BlockConfig, dtype: torch.dtype) -> None:
    for spatial_dims, channel_dim in LAYOUTS:
        block = build_block(config, CHANNELS, spatial_dims=spatial_dims, channel_dim=channel_dim)
        for x in (tensor(spatial_dims, channel_dim), tensor(spatial_dims, channel_dim, dtype)):
            with torch.autocast("cpu", dtype=dtype):
                y = block(x)
            assert y.dtype == x.dtype
            assert torch.equal(y, x)
