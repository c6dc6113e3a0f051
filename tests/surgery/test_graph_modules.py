"""Networks that torch.fx made: their class is one for each instance, and goes with their graph."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from sesurgeon import NoSiteError, add_se, remove_se
from sesurgeon.surgery import blocks_of
from tests.networks import FunctionalResNet, ResidualBlock, trained_like

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Blockwise(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ResidualBlock) or super().is_leaf_module(m, module_qualified_name)


def test_a_traced_network_is_left_alone_and_it_is_said_what_to_do() -> None:
    for traced in (fx.symbolic_trace(FunctionalResNet()), nn.Sequential(fx.symbolic_trace(FunctionalResNet()))):
        with pytest.raises(NoSiteError, match=r"is a torch\.fx\.GraphModule: insert the blocks first"):
            add_se(traced, SMALL)


def test_modules_inside_a_traced_network_get_blocks() -> None:
    network = trained_like(nn.Sequential(nn.Conv2d(3, 8, 3), ResidualBlock(8), ResidualBlock(8)))
    traced = fx.GraphModule(network, Blockwise().trace(network)).eval()
    augmented = add_se(traced, SMALL, init="random")
    assert list(blocks_of(augmented)) == ["1.se", "2.se"]
    assert torch.equal(copy.deepcopy(augmented)(SMALL), augmented(SMALL))
    assert torch.equal(remove_se(augmented)(SMALL), traced(SMALL))
