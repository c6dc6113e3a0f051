"""Blocks that somebody changed after they were inserted: nothing is assumed of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

from sesurgeon import UsageError, add_se, extract_adapter, save
from sesurgeon.blocks import SqueezeExcite
from sesurgeon.surgery import fold

SMALL = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CHANGES: dict[str, Callable[[SqueezeExcite], object]] = {
    "parametrized": lambda block: parametrizations.weight_norm(block.fc1),
    "pruned": lambda block: prune.l1_unstructured(block.fc1, "weight", 2),
    "hooked": lambda block: block.gate.register_forward_hook(lambda _module, _given, factors: factors * 0.5),
}


def changed(change: str) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8), BasicBlock(8, 8))
    augmented = add_se(net, SMALL)
    CHANGES[change](augmented.get_submodule("1.se"))
    return augmented.eval()


@pytest.mark.parametrize("change", CHANGES)
def test_such_a_block_keeps_its_factor_and_the_others_are_folded(change: str) -> None:
    model = changed(change)
    folding = fold(model)
    assert folding.folded == ("2.se",)
    assert [left.path for left in folding.left] == ["1.se"]
    assert torch.equal(folding.model(SMALL), model(SMALL))


@pytest.mark.parametrize("change", ["parametrized", "pruned"])
def test_no_file_is_written_that_could_not_be_read_again(change: str, tmp_path: Path) -> None:
    for write, name in ((save, "net.se.pt"), (extract_adapter, "net.adapter.safetensors")):
        with pytest.raises(UsageError, match=r"its block 1\.se has other tensors"):
            write(changed(change), tmp_path / name)
    assert not list(tmp_path.iterdir())
