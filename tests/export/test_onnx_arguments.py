"""What is asked of an export, looked at before the work is done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sesurgeon import UsageError, export_onnx
from sesurgeon.errors import VerificationError
from sesurgeon.export import onnx as onnx_export
from sesurgeon.export.capture import quiet_exporter
from sesurgeon.models import Provenance

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"precision": "fp16"}, r"precision \(='fp16'\) must be one of: float32, float16, int8"),
        ({"opset": "18"}, r"opset \(='18'\) must be a whole number"),
        ({"precision": "int8", "calibration": iter(())}, "int8 needs images"),
        ({"precision": "int8", "calibration": IMAGES}, r"of 4 dimensions; one is a tensor of shape \(3, 8, 8\)"),
        ({"precision": "int8", "calibration": [[1]]}, "calibration must be batches of what.*; one is of type int"),
        ({"compare_on": [IMAGES.numpy()]}, "compare_on must be batches of what.*; one is of type ndarray"),
    ],
)
def test_what_cannot_be_exported_by_is_refused(choice: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        export_onnx(network(), tmp_path / "net.onnx", example_inputs=IMAGES, **choice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", ["calibration", "compare_on"])
def test_batches_may_come_from_a_loader_of_images_and_labels(choice: str, tmp_path: Path) -> None:
    batches = DataLoader(TensorDataset(IMAGES, torch.arange(4)), batch_size=2)
    precision = "int8" if choice == "calibration" else "float32"
    report = export_onnx(
        network(), tmp_path / "net.onnx", example_inputs=IMAGES, precision=precision, **{choice: batches}
    )
    assert report.parity is not None
    assert report.parity.batch_sizes[-3 if choice == "compare_on" else -2 :][:2] == (2, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_batches_may_have_any_type(dtype: torch.dtype, tmp_path: Path) -> None:
    batches = [(10 * IMAGES.abs()).to(dtype)]
    for choice in ({"compare_on": batches}, {"calibration": batches, "precision": "int8"}):
        report = export_onnx(network(), tmp_path / "net.onnx", example_inputs=IMAGES, **choice)
        assert report.parity is not None


def test_batches_may_be_given_one_by_one(tmp_path: Path) -> None:
    batches = (IMAGES for _ in range(2))
    report = export_onnx(network(), tmp_path / "net.onnx", example_inputs=IMAGES, precision="int8", calibration=batches)
    assert report.parity is not None
    assert report.parity.batch_sizes == (4, 4)


def test_a_graph_that_is_no_onnx_is_refused_without_verify_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any, _: Provenance) -> None:
        model.graph[0].op_type = "Nonsense"

    monkeypatch.setattr(onnx_export, "write_metadata", spoil)
    with pytest.raises(VerificationError, match=r"onnx\.checker refuses .*Nonsense"):
        export_onnx(network(), tmp_path / "net.onnx", example_inputs=IMAGES, verify=False)
    assert not list(tmp_path.iterdir())


def test_what_the_caller_silenced_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    with quiet_exporter():
        assert not logging.root.isEnabledFor(logging.CRITICAL)
    assert logging.root.manager.disable == logging.INFO
