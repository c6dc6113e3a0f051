from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_nets import TinyNet
from PIL import Image
from torch import nn

from sesurgeon.finetune import FinetuneConfig
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se

torch.set_num_threads(1)


def picture(label: int, number: int, size: int = 8) -> Image.Image:
    """Class 0 is dark on the left, class 1 on the right, class 2 at the top, all in noise."""
    pixels = np.random.default_rng((label, number)).integers(0, 120, (size, size))
    half = [np.s_[:, : size // 2], np.s_[:, size // 2 :], np.s_[: size // 2]][label]
    pixels[half] += 100
    return Image.fromarray(pixels.astype(np.uint8))


def fill_folder(root: Path, classes: Sequence[str], images: int, size: int = 8) -> Path:
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(images):
            picture(label, number, size).save(folder / f"{number:03}.png")
    return root


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    """train/ with 12 and val/ with 6 images a class, two classes of 8 x 8 grey PNGs."""
    root = tmp_path / "data"
    fill_folder(root / "train", ("left", "right"), 12)
    fill_folder(root / "val", ("left", "right"), 6)
    return root


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Two class folders with 10 images each."""
    return fill_folder(tmp_path / "photos", ("left", "right"), 10)


@pytest.fixture
def fill() -> Callable[..., Path]:
    """``fill(root, classes, images, size=8)`` makes a folder of class folders."""
    return fill_folder


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    """A short run on the CPU, one epoch of each phase."""
    return FinetuneConfig(
        epochs=2, freeze_epochs=1, batch_size=8, workers=0, device="cpu", output=str(tmp_path / "runs"), log_with=()
    )


@pytest.fixture
def augmented(make_net: Callable[..., TinyNet]) -> nn.Module:
    """The small network with blocks in it, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return add_se(make_net(), example_inputs=torch.zeros(1, 1, 8, 8))


@pytest.fixture
def make_net() -> Callable[..., TinyNet]:
    """``make_net(classes=2, channels=1)`` makes a small residual network, always with the same weights."""

    def make(classes: int = 2, channels: int = 1) -> TinyNet:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TinyNet(classes, channels)
        source = Source("factory", "finetune_nets:TinyNet", {"classes": classes, "channels": channels})
        attach_provenance(model, Provenance(source))
        return model

    return make
