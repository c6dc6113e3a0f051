"""Files to read: small networks saved in the ways that people save them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> nn.Module:
    """torchvision's smallest network, for 7 classes, with running statistics of its own."""
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    model = shufflenet_v2_x0_5(num_classes=7)
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``torch.save`` into a folder of the test."""

    def save(content: object, name: str = "model.pt", **options: object) -> Path:
        path = tmp_path / name
        torch.save(content, path, **options)
        return path

    return save


@pytest.fixture
def saved_pickle(tmp_path: Path) -> Callable[[bytes], Path]:
    """A file as of ``torch.save``, with a pickle written by hand in it."""

    def save(pickle: bytes) -> Path:
        path = tmp_path / "by-hand.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("by-hand/data.pkl", pickle)
            archive.writestr("by-hand/byteorder", "little")
            archive.writestr("by-hand/version", "3\n")
        return path

    return save
