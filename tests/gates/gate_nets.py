"""A small network with blocks whose gates are known, and grey images of two classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import sesurgeon
from sesurgeon.finetune import Data, open_data
from sesurgeon.surgery import blocks_of
from tests.networks import trained_like

BLOCKS = ("1.se", "2.se", "3.se")


def augmented(**choices: object) -> nn.Module:
    """Three residual blocks, all gates exactly 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 8),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
        model = sesurgeon.add_se(trained_like(net), torch.randn(2, 1, 8, 8), **choices)  # type: ignore[arg-type]
    assert tuple(blocks_of(model)) == BLOCKS
    return model.eval()


def set_constants(model: nn.Module, path: str, constants: Tensor) -> None:
    """Let a gate give these, whatever it sees."""
    with torch.no_grad():
        model.get_parameter(f"{path}.fc2.bias").copy_(torch.logit(constants / 2))


def enliven(model: nn.Module, path: str, size: float = 4.0) -> None:
    """Let a gate depend on the image."""
    generator = torch.Generator().manual_seed(5)
    nn.init.normal_(model.get_parameter(f"{path}.fc2.weight"), std=size, generator=generator)


def broken() -> nn.Module:
    """One factor of 2.se is no number."""
    model = augmented()
    with torch.no_grad():
        model.get_parameter("2.se.fc2.bias")[3] = torch.nan
    return model


def constants() -> Tensor:
    return torch.tensor([0.4, 0.7, 0.92, 1.0, 1.08, 1.3, 1.6, 1.95])


def images(root: Path, each: int = 8) -> Data:
    """Bright pixels on the left, or on the right."""
    for label, name in enumerate(("left", "right")):
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (8, 8))
            pixels[:, label * 4 : label * 4 + 4] += 100 + 10 * label
            pixels = pixels * (number + 1) // each  # dark and bright ones: a gate sees little else
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03}.png")
    return open_data(root, training=False, val_split=None)
