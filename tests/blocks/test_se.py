from __future__ import annotations

import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from torch import nn

from sesurgeon.blocks import BlockConfig, SqueezeExcite, build_block


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 16, 9), (2, 16, 5, 7), (2, 16, 3, 5, 7)])
def test_a_fresh_block_is_the_identity(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    block = SqueezeExcite(16, 4, spatial_dims=len(shape) - 2).to(dtype)
    assert torch.equal(block(x), x)


def test_the_random_block_is_timms_bit_for_bit() -> None:
    theirs = SEModule(32, rd_ratio=1 / 4)
    ours = SqueezeExcite(32, 8, identity=False).eval()
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


def test_parameters_of_one_block_by_hand() -> None:
    # 256 -> 16 -> 256 with biases: 256 * 16 + 16 + 16 * 256 + 256
    block: nn.Module = build_block(BlockConfig(), 256)
    assert sum(p.numel() for p in block.parameters()) == 4096 + 16 + 4096 + 256
