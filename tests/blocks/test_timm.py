"""Names, shapes, first values and outputs are timm's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.gather_excite import GatherExcite
from timm.layers.global_context import GlobalContext
from timm.layers.mlp import ConvMlp
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from torch import nn

from sesurgeon.blocks import BlockConfig, build_block
from tests.blocks.cases import CASES, CHANNELS, scramble, trained


def gather_excite(extent: int) -> nn.Module:
    """timm's ``GatherExcite(extent=extent)``, whose constructor trips over its own arguments in timm 1.0.31."""
    module: nn.Module = GatherExcite(CHANNELS, extent=extent, use_mlp=False)
    module.mlp = ConvMlp(CHANNELS, CHANNELS // 16)
    return module


THEIRS: dict[str, Callable[[], nn.Module]] = {
    "se": lambda: SEModule(CHANNELS),
    "se-without-bias": lambda: SEModule(CHANNELS, bias=False),
    "ese": lambda: EffectiveSEModule(CHANNELS),
    "eca": lambda: EcaModule(CHANNELS),
    "cbam": lambda: CbamModule(CHANNELS),
    "gc": lambda: GlobalContext(CHANNELS),
    "ge": lambda: gather_excite(0),
    "ge-extent": lambda: gather_excite(2),
}


def settings(name: str) -> dict[str, object]:
    return CASES[name].to_dict()


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("size", [(7, 7), (8, 5), (1, 1)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", [{"init": "random"}, {"plain": True}])
def test_timms_weights_give_timms_outputs(
    name: str, size: tuple[int, int], training: bool, start: dict[str, object]
) -> None:
    torch.manual_seed(0)
    theirs = THEIRS[name]().train(training)
    scramble(theirs)
    ours = build_block(BlockConfig(**{**settings(name), **start}), CHANNELS).train(training)  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, CHANNELS, *size)
    in_channels_last = x.to(memory_format=torch.channels_last)
    with torch.set_grad_enabled(not training):  # with gradients in train mode matrices are multiplied
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(in_channels_last), theirs(in_channels_last))


@pytest.mark.parametrize("name", THEIRS)
def test_our_weights_give_our_outputs_in_timm(name: str) -> None:
    torch.manual_seed(0)
    ours = trained(BlockConfig(**{**settings(name), "plain": True})).eval()  # type: ignore[arg-type]
    theirs = THEIRS[name]().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, CHANNELS, 7, 6)
    assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize("name", THEIRS)
def test_a_random_start_is_timms_of_the_same_seed(name: str) -> None:
    torch.manual_seed(0)
    theirs = THEIRS[name]().state_dict()
    torch.manual_seed(0)
    ours = build_block(BlockConfig(**{**settings(name), "init": "random"}), CHANNELS)  # type: ignore[arg-type]
    assert list(ours.state_dict()) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", THEIRS)
def test_a_folded_block_is_timms(name: str) -> None:
    torch.manual_seed(0)
    block = trained(CASES[name]).eval()
    block.fold()
    theirs = THEIRS[name]().eval()
    theirs.load_state_dict(block.state_dict(), strict=True)
    x = torch.randn(3, CHANNELS, 7, 6)
    assert torch.equal(theirs(x), block(x))
