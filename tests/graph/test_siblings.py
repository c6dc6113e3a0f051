"""Branch ends of blocks that have no skip, in a network that has been operated on already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sesurgeon


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
        self.skip = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.conv(x))
        return branch + x if self.skip else branch


def test_inserted_blocks_leave_the_sites_where_they_were() -> None:
    model = nn.Sequential(Block(3, 4), Block(4, 4), Block(4, 8), Block(8, 8))
    images = torch.randn(2, 3, 8, 8)
    before = sesurgeon.find_sites(model, images)
    after = sesurgeon.find_sites(sesurgeon.add_se(model, example_inputs=images), images)

    assert [(site.id, site.has_skip) for site in after] == [(site.id, site.has_skip) for site in before]
    residual = [site for site in after if site.kind == "residual"]
    assert [(site.attention, site.has_skip) for site in residual] == [
        ("0.se", False), ("1.se", True), ("2.se", False), ("3.se", True),
    ]  # fmt: skip
