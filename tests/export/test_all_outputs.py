"""Files with all outputs of a network that gives several: detectors, pyramids, heads beside the main one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

from sesurgeon.errors import UntraceableError
from sesurgeon.export import export_onnx, export_pt2, load_onnx
from sesurgeon.export.parity import compare_all
from sesurgeon.surgery import add_se

IMAGES = torch.randn(2, 3, 16, 16)


class Returns(nn.Module):
    """A small network whose outputs come as somebody likes them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        logits = self.head(maps.mean((2, 3)))
        return {
            "one": logits,
            "tuple": (logits, maps),
            "dict": {"out": logits, "aux": maps, "loss": maps.mean(), "none": None},
            "numbers": {0: logits, 1: maps},
            "nested": [logits, [maps, {"mask": maps > 0}]],
            "no batch": (maps.mean(), None),
        }[self.kind]


OUTPUTS = {
    "one": {"logits": (5,)},
    "tuple": {"output_1": (5,), "output_2": (4, 14, 14)},
    "dict": {"out": (5,), "aux": (4, 14, 14)},
    "numbers": {"output_0": (5,), "output_1": (4, 14, 14)},
    "nested": {"output_1": (5,), "output_2.1": (4, 14, 14), "output_2.2.mask": (4, 14, 14)},
}


def in_onnxruntime(path: Path, images: Tensor) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": images.numpy()})
    return {given.name: torch.from_numpy(value) for given, value in zip(session.get_outputs(), found, strict=True)}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_each_output_with_a_batch_has_its_name_and_its_values(kind: str, tmp_path: Path) -> None:
    network = Returns(kind)
    report = export_onnx(network, tmp_path / "net.onnx", example_inputs=IMAGES, all_outputs=True)
    assert report.outputs == OUTPUTS[kind]
    assert report.left_out == (("loss",) if kind == "dict" else ())
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        maps = network.conv(images)
        logits = network.head(maps.mean((2, 3)))
    found = in_onnxruntime(report.path, images)
    assert list(found) == list(OUTPUTS[kind])
    for value, expected in zip(found.values(), (logits, maps, maps > 0), strict=False):
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(load_onnx(report.path)(images), logits)  # the first


class Keyed(Returns):
    """Its outputs have the keys that it is given."""

    def __init__(self, keys: tuple[str, str]) -> None:
        super().__init__("tuple")
        self.keys = keys

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.keys, super().forward(x), strict=True))


@pytest.mark.parametrize("keys", [("mean", "conv2d"), ("linear", "input"), ("conv2d", "val_0")], ids=str)
def test_keys_may_be_names_of_the_file_itself(keys: tuple[str, str], tmp_path: Path) -> None:
    network = Keyed(keys)
    report = export_onnx(network, tmp_path / "net.onnx", example_inputs=IMAGES, all_outputs=True)
    assert list(report.outputs) == ["output_input" if key == "input" else key for key in keys]
    with torch.no_grad():
        expected = network(IMAGES).values()
    for value, wanted in zip(in_onnxruntime(report.path, IMAGES).values(), expected, strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_torch_export_file_gives_a_tuple_and_says_what_is_what(tmp_path: Path) -> None:
    network = Returns("dict")
    report = export_pt2(network, tmp_path / "net.pt2", example_inputs=IMAGES, all_outputs=True)
    assert (report.outputs, report.left_out) == (OUTPUTS["dict"], ("loss",))
    extra = {"sesurgeon.json": ""}
    read = torch.export.load(report.path, extra_files=extra).module()
    assert json.loads(extra["sesurgeon.json"])["outputs"] == ["out", "aux"]
    with torch.no_grad():
        found, expected = read(IMAGES), network(IMAGES)
    assert torch.equal(found[0], expected["out"])
    assert torch.equal(found[1], expected["aux"])


@pytest.mark.parametrize("options", [{}, {"for_cpu": True}, {"precision": "float16"}, {"simplify": True}], ids=str)
def test_a_pyramid_with_blocks(options: dict[str, Any], tmp_path: Path) -> None:
    pyramid = add_se(timm.create_model("resnet10t", features_only=True), torch.randn(2, 3, 64, 64)).eval()
    report = export_onnx(pyramid, tmp_path / "net.onnx", all_outputs=True, **options)
    assert [shape[0] for shape in report.outputs.values()] == pyramid.feature_info.channels()
    assert report.left_out == ()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = pyramid(images)
    for value, wanted in zip(in_onnxruntime(report.path, images).values(), expected, strict=True):
        assert (value - wanted).abs().max() < 2e-2 * wanted.abs().max()


def test_the_output_that_is_furthest_off_is_told() -> None:
    right, wrong = (torch.randn(4, 3), torch.randn(4, 7)), torch.randn(4, 7)
    parity = compare_all([right], [(right[0], wrong)], 1e-4)
    assert parity.max_abs == (right[1] - wrong).abs().max()
    assert not parity.passed
    assert compare_all([right], [right], 1e-4).passed
    lost = torch.full((4, 7), torch.nan)
    assert not compare_all([right], [(right[0], lost)], 1e-4).passed


def test_a_network_without_a_batch_in_its_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UntraceableError, match="no tensor in eval mode whose first dimension is the batch"):
        export_onnx(Returns("no batch"), tmp_path / "net.onnx", example_inputs=IMAGES, all_outputs=True)
    assert not list(tmp_path.iterdir())
