from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock

import sesurgeon


def tiny_net(classes: int = 2) -> nn.Module:
    """A residual network for grey images, with the same weights each time, of classes that need no trust."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            BasicBlock(8, 8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )


def write_images(root: Path, classes: Sequence[str], images: int) -> Path:
    """Class folders of 8x8 grey PNGs: the first class is dark at the top, the second at the bottom, …"""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(images):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (8, 8))
            pixels[label] += 130
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: net.se.pt, and data/ with 12 training and 6 validation images of up and down."""
    monkeypatch.chdir(tmp_path)
    sesurgeon.save(sesurgeon.add_se(tiny_net(), example_inputs=torch.randn(2, 1, 8, 8)), tmp_path / "net.se.pt")
    write_images(tmp_path / "data" / "train", ("down", "up"), 6)
    write_images(tmp_path / "data" / "val", ("down", "up"), 3)
    return tmp_path


@pytest.fixture
def images() -> Callable[[Path, Sequence[str], int], Path]:
    return write_images


@pytest.fixture
def net() -> Callable[..., nn.Module]:
    return tiny_net
