"""The images on which a file is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import VerificationError
from sesurgeon.export import export_onnx, export_pt2
from sesurgeon.export.trials import random_images
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.surgery import add_se


def test_random_images_lie_in_the_range_of_the_preprocessing() -> None:
    preprocessing = Preprocessing((2, 64, 64), mean=(0.5, 0.0), std=(0.5, 0.25))
    images = random_images((4, 2, 64, 64), preprocessing)
    assert -1.0 <= images[:, 0].min() < -0.99
    assert 0.99 < images[:, 0].max() <= 1.0
    assert 0.0 <= images[:, 1].min() < 0.01
    assert 3.99 < images[:, 1].max() <= 4.0
    assert torch.equal(images, random_images((4, 2, 64, 64), preprocessing))


class Spectrogram(nn.Module):
    """Takes the logarithm of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv((x + 1e-6).log()).mean((2, 3))


def test_a_network_that_gives_nan_on_noise_is_compared_on_the_images_that_were_given(tmp_path: Path) -> None:
    spectrograms = torch.rand(2, 1, 16, 16)
    report = export_onnx(Spectrogram(), tmp_path / "given.onnx", example_inputs=spectrograms)
    assert report.parity is not None
    assert report.parity.batch_sizes == (1, 4, 2)
    assert export_onnx(add_se(Spectrogram(), spectrograms), tmp_path / "from_the_plan.onnx").parity is not None


def test_a_network_that_gives_nan_on_all_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="NaN or infinity on random images and on the example"):
        export_onnx(Spectrogram(), tmp_path / "net.onnx", example_inputs=-torch.rand(2, 1, 16, 16))
    assert not list(tmp_path.iterdir())


class Counting(nn.Module):
    """Notes the size of each batch that it is given."""

    batches: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.batches.append(len(x))
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(("export", "name"), [(export_onnx, "net.onnx"), (export_pt2, "net.pt2")])
def test_the_network_runs_once_on_each_batch_that_is_compared(
    export: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    Counting.batches.clear()
    export(Counting(), tmp_path / name, example_inputs=torch.randn(3, 3, 8, 8))
    assert (Counting.batches.count(1), Counting.batches.count(4)) == (1, 1)
