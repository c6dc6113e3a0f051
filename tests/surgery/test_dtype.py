"""Blocks are of the kind of the tensors that they scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sesurgeon import add_se
from sesurgeon.surgery import blocks_of
from tests.networks import ResidualBlock

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Convolutions in double precision, everything around them in single."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, 1, 1).double()
        self.host = ResidualBlock(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.host(self.stem(x)).double()
        return torch.relu(self.conv(x)) + x


def test_the_blocks_take_the_dtype_of_the_sites_tensor() -> None:
    augmented = add_se(Mixed(), example_inputs=SMALL)
    dtypes = {path: {p.dtype for p in block.parameters()} for path, block in blocks_of(augmented).items()}
    assert dtypes == {"se": {torch.float64}, "host.se": {torch.float32}}
    assert augmented(SMALL).dtype == torch.float64
