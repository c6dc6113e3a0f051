from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sesurgeon.blocks import BlockConfig, build_block
from tests.blocks.cases import CASES, CHANNELS, LAYOUTS, SQUEEZES, label, tensor, trained

SCALES = {"cbam": 4.0}
"""cbam has two gates, the others one."""


@pytest.mark.parametrize(("spatial_dims", "channel_dim"), LAYOUTS)
@pytest.mark.parametrize("config", [*CASES.values(), *SQUEEZES], ids=label)
@pytest.mark.parametrize("gate", ["sigmoid", "hard-sigmoid"])
def test_a_folded_block_gives_the_same_bits_for_a_scaled_tensor(
    config: BlockConfig, gate: str, spatial_dims: int, channel_dim: int
) -> None:
    torch.manual_seed(0)
    block = trained(replace(config, gate=gate), spatial_dims, channel_dim)  # type: ignore[arg-type]
    x = tensor(spatial_dims, channel_dim)
    for training in (True, False):
        block.train(training)
        before = block(x)
        assert not torch.equal(before, x)
        folded = build_block(replace(config, gate=gate), CHANNELS, spatial_dims=spatial_dims, channel_dim=channel_dim)  # type: ignore[arg-type]
        folded.load_state_dict(block.state_dict())
        folded.train(training)
        scale = folded.fold()
        assert scale == SCALES.get(config.block, 2.0)
        assert torch.equal(folded(scale * x), before)


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_folding_divides_what_reads_the_tensor_and_nothing_else(config: BlockConfig) -> None:
    block = trained(config)
    before = {key: value.clone() for key, value in block.state_dict().items()}
    scale = block.gate_scale
    assert block.fold() == scale == SCALES.get(config.block, 2.0)
    divided = {key: float(before[key].flatten()[0] / value.flatten()[0]) for key, value in block.state_dict().items()}
    expected = {
        "se": {"fc1.weight": 2.0},
        "ese": {"fc.weight": 2.0},
        "eca": {"conv.weight": 2.0},
        "cbam": {"channel.fc1.weight": 4.0, "spatial.conv.conv.weight": 2.0},
        "gc": {"conv_attn.weight": 2.0, "mlp_scale.fc1.weight": 2.0},
        "ge": {"mlp.fc1.weight": 2.0},
    }[config.block]
    assert {key: value for key, value in divided.items() if value == value and value != 1.0} == expected


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_a_plain_block_folds_to_itself(config: BlockConfig) -> None:
    for block in (trained(config), trained(replace(config, plain=True)), trained(replace(config, init="random"))):
        block.fold()
        before = {key: value.clone() for key, value in block.state_dict().items()}
        assert block.gate_scale == 1.0
        assert block.fold() == 1.0
        assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
        assert not any(type(module).__name__.startswith("Twice") for module in block.modules())


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_one_plus_tanh_is_left_alone(config: BlockConfig) -> None:
    torch.manual_seed(0)
    block = trained(replace(config, gate="tanh"))
    x = tensor()
    before, weights = block(x), {key: value.clone() for key, value in block.state_dict().items()}
    assert block.gate_scale == 1.0
    assert block.fold() is None
    assert torch.equal(block.train(False)(x), block(x))
    assert all(torch.equal(value, weights[key]) for key, value in block.state_dict().items())
    assert torch.equal(block.train()(x), before)


def test_weights_that_cannot_be_halved_are_left_alone() -> None:
    block = trained(BlockConfig("cbam"))
    smallest = 2.0**-149
    with torch.no_grad():
        block.get_parameter("spatial.conv.conv.weight")[0, 0, 0, 0] = smallest
    before = {key: value.clone() for key, value in block.state_dict().items()}
    assert block.fold() is None
    assert block.gate_scale == 4.0
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


def test_folding_keeps_the_parameters_themselves() -> None:
    block = trained(BlockConfig())
    before = dict(block.named_parameters())
    block.fold()
    assert all(parameter is before[name] for name, parameter in block.named_parameters())
    assert all(isinstance(parameter, nn.Parameter) and parameter.requires_grad for parameter in block.parameters())
