"""Fewer bits: half the size and a quarter, close to PyTorch, and said how close."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sesurgeon.errors import UntraceableError, UsageError, VerificationError
from sesurgeon.export import export_onnx, load_onnx, precision
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance, provenance_of
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se

PREPROCESSING = Preprocessing((3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear", 0.9)
CLASSES = tuple("abcdefgh")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(128, 8)
        nn.init.normal_(head.weight)  # logits far apart
        body = [nn.Conv2d(3, 128, 3, 4), BasicBlock(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = add_se(nn.Sequential(*body, head), torch.randn(2, 3, 32, 32))
    attach_provenance(model, Provenance(Source("module"), CLASSES, None, PREPROCESSING))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 32, 32, generator=generator) for _ in range(2)]


def test_half_is_half_the_size_and_close(network: nn.Module, images: list[Tensor], tmp_path: Path) -> None:
    whole = export_onnx(network, tmp_path / "whole.onnx")
    half = export_onnx(network, tmp_path / "half.onnx", precision="float16", compare_on=images)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["half.onnx", "whole.onnx"]
    assert half.size < 0.52 * whole.size
    assert whole.parity is not None
    assert half.parity is not None
    assert half.parity.batch_sizes == (1, 4, 16, 16)
    assert whole.parity.max_rel < 1e-5 < half.parity.max_rel < half.parity.tolerance == 0.02
    assert half.parity.top1_agreement == 1.0
    kinds = {onnx.TensorProto.DataType.Name(weight.data_type) for weight in onnx.load(half.path).graph.initializer}
    assert "FLOAT" not in kinds


def test_half_takes_what_stays_float32_in_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3))
    images = torch.randn(2, 3, 8, 8)
    report = export_onnx(model, tmp_path / "half.onnx", example_inputs=images, precision="float16")
    assert report.parity is not None
    assert report.parity.max_rel < 2e-3


def test_int8_is_a_quarter_and_its_agreement_is_told(network: nn.Module, images: list[Tensor], tmp_path: Path) -> None:
    whole = export_onnx(network, tmp_path / "whole.onnx")
    report = export_onnx(
        network, tmp_path / "int8.onnx", precision="int8", calibration=images[:1], compare_on=images[1:]
    )
    assert report.precision == "int8"
    weights = [numpy_helper.to_array(one) for one in onnx.load(report.path).graph.initializer if len(one.dims) > 1]
    assert {abs(one.astype(int)).max() for one in weights if one.dtype == "int8"} <= {0, 63, 64}  # 7 bits; fresh fc2
    dims = {one.name: tuple(one.dims) for one in onnx.load(report.path).graph.initializer}
    scaled = [node.input for node in onnx.load(report.path).graph.node if node.op_type == "DequantizeLinear"]
    scales = [(dims[weight], dims[scale]) for weight, scale, _ in scaled if len(dims.get(weight, ())) == 4]
    assert scales
    assert all(scale == weight[:1] for weight, scale in scales)  # one for each channel
    assert report.size < 0.3 * whole.size
    assert report.parity is not None
    assert report.parity.batch_sizes == (16,)
    assert 0.8 < report.parity.top1_agreement <= 1.0
    assert 1e-4 < report.parity.max_rel < 0.5
    operators = Counter(node.op_type for node in onnx.load(report.path).graph.node)
    assert operators["QuantizeLinear"] > 0
    with torch.no_grad():
        expected, got = network(images[1]), load_onnx(report.path)(images[1])
    assert (expected - got).abs().max() == report.parity.max_abs


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_batches_are_free_and_metadata_stay(
    network: nn.Module, images: list[Tensor], tmp_path: Path, kind: precision.Precision
) -> None:
    report = export_onnx(network, tmp_path / "net.onnx", precision=kind, calibration=images, simplify=True)
    model = load_onnx(report.path)
    assert (provenance_of(model).classes, provenance_of(model).preprocessing) == (CLASSES, PREPROCESSING)
    for size in (1, 3):
        assert model(torch.randn(size, 3, 32, 32)).shape == (size, 8)


def test_simplified_it_is_no_larger_and_computes_the_same(network: nn.Module, tmp_path: Path) -> None:
    plain = export_onnx(network, tmp_path / "plain.onnx")
    simple = export_onnx(network, tmp_path / "simple.onnx", simplify=True)
    nodes = [len(onnx.load(report.path).graph.node) for report in (plain, simple)]
    assert nodes[1] <= nodes[0]
    assert simple.parity is not None
    assert simple.parity.passed


def test_what_all_logits_have_in_common_hides_no_change_of_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 10)
    with torch.no_grad():
        head.bias.add_(1000)  # in float16 numbers there are 0.5 apart
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    with pytest.raises(VerificationError, match="of their spread"):
        export_onnx(net, tmp_path / "half.onnx", example_inputs=torch.randn(2, 3, 8, 8), precision="float16")


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_what_the_system_cannot_write_is_no_fault_of_the_network(
    network: nn.Module, images: list[Tensor], tmp_path: Path, kind: precision.Precision
) -> None:
    whole = export_onnx(network, tmp_path / "whole.onnx").path
    with pytest.raises(OSError, match="No such file"):
        precision.reduce(whole, tmp_path / "nowhere" / "net.onnx", kind, [{"input": batch} for batch in images])
    assert list(tmp_path.iterdir()) == [whole]


def test_int8_has_nothing_written_beside_the_file_but_itself(
    network: nn.Module, images: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = list[Path](), onnx.shape_inference.infer_shapes_path

    def infer(source: str, target: str, *rest: object) -> None:  # which does not notice a full disk
        written.append(Path(target))
        real(source, target, *rest)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes_path", infer)
    export_onnx(network, tmp_path / "int8.onnx", precision="int8", calibration=images)
    assert written
    assert not any(path.is_relative_to(tmp_path) for path in written)


def test_what_is_too_far_off_is_not_kept(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision.TOLERANCES, "float16", 1e-6)
    with pytest.raises(VerificationError, match="onnxruntime's outputs are up to"):
        export_onnx(network, tmp_path / "half.onnx", precision="float16")
    assert list(tmp_path.iterdir()) == []


def test_int8_without_images_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 needs images"):
        export_onnx(network, tmp_path / "int8.onnx", precision="int8")
    with pytest.raises(UntraceableError, match="cannot make it int8"):
        export_onnx(network, tmp_path / "int8.onnx", precision="int8", calibration=[torch.randn(1, 3, 20, 20)])
    assert list(tmp_path.iterdir()) == []
