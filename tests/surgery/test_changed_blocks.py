"""Blocks that somebody changed after they were inserted: nothing is assumed of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

from sesurgeon import UsageError, add_se, extract_adapter, load, save
from sesurgeon.blocks import SqueezeExcite
from sesurgeon.surgery import fold

SMALL = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CHANGES: dict[str, Callable[[SqueezeExcite], object]] = {
    "parametrized": lambda block: parametrizations.weight_norm(block.fc1),
    "pruned": lambda block: prune.l1_unstructured(block.fc1, "weight", 2),
    "given another activation": lambda block: setattr(block, "act", nn.SiLU()),
    "given another forward": lambda block: setattr(block, "forward", torch.abs),
    "hooked before": lambda block: block.gate.register_forward_pre_hook(lambda _module, given: (given[0] + 1,)),
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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("parametrized", "other tensors"),
        ("pruned", "other tensors"),
        ("given another activation", r"another layer .*act\.SiLU"),
        ("given another forward", "another forward"),
    ],
)
def test_no_file_is_written_that_would_give_other_blocks(change: str, told: str, tmp_path: Path) -> None:
    for write, name in ((save, "net.se.pt"), (extract_adapter, "net.adapter.safetensors")):
        with pytest.raises(UsageError, match=rf"its block 1\.se has {told}"):
            write(changed(change), tmp_path / name)
    assert not list(tmp_path.iterdir())


def wrapped(net: nn.Module) -> None:
    net[2] = nn.Sequential(net[2], nn.Dropout())


LOSSES: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "its owner is gone": (lambda net: net.__delitem__(2), "is not there any more"),
    "its owner is another": (lambda net: net.__setitem__(2, BasicBlock(8, 8)), "is not there any more"),
    "its owner is wrapped": (wrapped, "is not there any more"),
    "it is no block": (lambda net: setattr(net[2], "se", nn.Identity()), r"has other tensors .*\(none\)"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_that_lost_a_block_is_not_written(loss: str, tmp_path: Path) -> None:
    lose, told = LOSSES[loss]
    net = changed("hooked")
    lose(net)
    for write, name in ((save, "net.se.pt"), (extract_adapter, "net.adapter.safetensors")):
        with pytest.raises(UsageError, match=rf"its block 2\.se {told}.*\n.*remove_se"):
            write(net, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_block_that_no_plan_knows_is_not_written(tmp_path: Path) -> None:
    net = changed("hooked")
    net.append(copy.deepcopy(net[2]))
    with pytest.raises(UsageError, match=r"its block 3\.se is not in its plan"):
        save(net, tmp_path / "net.se.pt")


def test_a_network_that_lost_a_block_is_not_folded() -> None:
    net = changed("hooked")
    del net[2]
    with pytest.raises(UsageError, match=r"cannot be folded: its block 2\.se is not there any more"):
        fold(net)


def test_what_came_in_place_of_a_block_is_left_alone_in_folding() -> None:
    net = changed("hooked")
    net[2].se = nn.Identity()
    assert [left.path for left in fold(net).left] == ["1.se", "2.se"]


def test_batch_norms_across_processes_are_no_change(tmp_path: Path) -> None:
    net = add_se(nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8)), SMALL, block="cbam")
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net).eval()
    save(net, tmp_path / "net.se.pt")
    assert torch.equal(load(tmp_path / "net.se.pt")(SMALL), net(SMALL))
