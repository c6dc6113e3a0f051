"""Weights go to timm's own networks and come back, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from sesurgeon import add_se, fold_gate_scale, load
from sesurgeon.export import export_plain
from sesurgeon.surgery import blocks_of, fold
from tests.networks import trained_like

# our base, our block, timm's network with that block
PAIRS = [
    pytest.param("resnet18", {}, "seresnet18"),
    pytest.param("resnet26t", {"block": "eca"}, "ecaresnet26t", marks=pytest.mark.slow),
    pytest.param("resnet34", {}, "seresnet34", marks=pytest.mark.slow),
    pytest.param("resnet50", {}, "seresnet50", marks=pytest.mark.slow),
    pytest.param("resnext50_32x4d", {}, "seresnext50_32x4d", marks=pytest.mark.slow),
]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> nn.Module:
    """Blocks as training leaves them, in eval mode."""
    for block in blocks_of(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    result: Tensor = model.eval()(IMAGES)
    return result


@pytest.mark.parametrize(("base", "choices", "theirs"), PAIRS)
def test_a_folded_network_is_timms_own(base: str, choices: dict[str, Any], theirs: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = trained(add_se(trained_like(timm.create_model(base)), IMAGES, **choices))
    folding = fold(ours)
    assert folding.left == ()
    assert len(folding.folded) == len(blocks_of(ours))
    torch.save(folding.model.state_dict(), tmp_path / "weights.pth")
    network = timm.create_model(theirs)
    network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True)
    assert torch.equal(logits(network), logits(ours))


@pytest.mark.parametrize(("base", "choices", "theirs"), PAIRS)
def test_timms_network_is_ours_with_plain_blocks(base: str, choices: dict[str, Any], theirs: str) -> None:
    torch.manual_seed(0)
    network = trained_like(timm.create_model(theirs))
    ours = add_se(timm.create_model(base), IMAGES, init="random", **choices)
    ours.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(logits(ours), logits(network))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_plain_file_is_read_as_timms_network(suffix: str, tmp_path: Path) -> None:
    ours = trained(add_se(trained_like(timm.create_model("resnet18", num_classes=7)), IMAGES))
    report = export_plain(ours, tmp_path / f"net{suffix}")
    assert (report.tensors, len(report.folding.folded)) == (len(ours.state_dict()), 8)
    network = load(tmp_path / f"net{suffix}", arch="timm:seresnet18")
    assert torch.equal(logits(network), logits(ours))


def test_without_folding_it_would_be_another_network() -> None:
    ours = trained(add_se(trained_like(timm.create_model("resnet18")), IMAGES))
    network = timm.create_model("seresnet18")
    network.load_state_dict(ours.state_dict(), strict=True)
    assert not torch.allclose(logits(network), logits(ours))
    network.load_state_dict(fold_gate_scale(ours).state_dict(), strict=True)
    assert torch.equal(logits(network), logits(ours))
