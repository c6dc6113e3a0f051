"""An ONNX file in the place of the module that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from sesurgeon.errors import UnreadableFileError
from sesurgeon.export import export_onnx, load_onnx
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, provenance_of


def network(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def exported(path: Path, channels: int = 3) -> nn.Module:
    model = network(channels)
    export_onnx(model, path, example_inputs=torch.randn(1, channels, 12, 16), verify=False)
    return model


def test_it_computes_what_the_module_computes(tmp_path: Path) -> None:
    model = exported(tmp_path / "net.onnx")
    images = torch.randn(5, 3, 12, 16)
    loaded = load_onnx(tmp_path / "net.onnx")
    torch.testing.assert_close(loaded(images), model(images).detach())
    assert not loaded.training


def test_classes_and_preprocessing_come_from_the_metadata(tmp_path: Path) -> None:
    model = network()
    known = Preprocessing((3, 12, 12), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.9)
    attach_provenance(model, Provenance(Source("module"), classes=("a", "b", "é"), preprocessing=known))
    export_onnx(model, tmp_path / "net.onnx", verify=False)
    provenance = provenance_of(load_onnx(tmp_path / "net.onnx"))
    assert (provenance.classes, provenance.preprocessing) == (("a", "b", "é"), known)


@pytest.mark.parametrize(("channels", "mean"), [(1, (0.5,)), (3, (0.485, 0.456, 0.406))])
def test_a_file_that_says_nothing_gets_the_usual_preprocessing(
    channels: int, mean: tuple[float, ...], tmp_path: Path
) -> None:
    exported(tmp_path / "net.onnx", channels)
    provenance = provenance_of(load_onnx(tmp_path / "net.onnx"))
    assert provenance.classes is None
    assert provenance.preprocessing is not None
    assert (provenance.preprocessing.input_size, provenance.preprocessing.mean) == ((channels, 12, 16), mean)


def test_images_that_it_cannot_take_are_a_value_error(tmp_path: Path) -> None:
    exported(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="dimensions"):
        load_onnx(tmp_path / "net.onnx")(torch.randn(1, 3, 4, 4))


def test_a_file_that_is_missing_torn_or_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="does not exist"):
        load_onnx(tmp_path / "missing.onnx")
    with pytest.raises(UnreadableFileError, match="does not exist or is no file"):
        load_onnx(tmp_path)
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07torn")
    for name in ("empty.onnx", "torn.onnx"):
        with pytest.raises(UnreadableFileError, match=f"onnxruntime cannot read .*{name}"):
            load_onnx(tmp_path / name)
    export_onnx(nn.Linear(4, 2), tmp_path / "line.onnx", example_inputs=torch.randn(2, 4), verify=False)
    with pytest.raises(UnreadableFileError, match=r"takes input: tensor\(float\)"):
        load_onnx(tmp_path / "line.onnx")
    graph = "(uint8[N, 3, 4, 4] input) => (float[N, 3, 4, 4] logits) { logits = Cast <to = 1> (input) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> net {graph}'), tmp_path / "bytes.onnx")
    with pytest.raises(UnreadableFileError, match=r"takes input: tensor\(uint8\)"):
        load_onnx(tmp_path / "bytes.onnx")


ENDLESS = json.dumps({"input_size": [3, float("inf"), 2], "mean": [0] * 3, "std": [1] * 3})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "{"),
        ("classes", "[" * 100_000),
        ("preprocessing", json.dumps({"mean": [0.5]})),
        ("preprocessing", ENDLESS),
    ],
)
def test_damaged_metadata_are_told(key: str, value: str, tmp_path: Path) -> None:
    exported(tmp_path / "net.onnx")
    program = onnx.load(tmp_path / "net.onnx")
    onnx.helper.set_model_props(program, {key: value})
    onnx.save(program, tmp_path / "net.onnx")
    with pytest.raises(UnreadableFileError, match="metadata"):
        load_onnx(tmp_path / "net.onnx")
