"""The ONNX file: what lies on disk, what it says, and what happens to the caller's model."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn

from sesurgeon.errors import OutputError, UntraceableError, UsageError, VerificationError
from sesurgeon.export import OnnxReport, export_onnx
from sesurgeon.export import onnx as onnx_export
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se, blocks_of

IMAGE = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """A residual block and a head, in 16x16 images: what a residual CNN needs of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def features(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.conv(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


PREPROCESSING = Preprocessing((3, 16, 16), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bilinear", 0.9)
CLASSES = ("ant", "bee", "cat", "döner", "éclair")


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, OnnxReport]:
    torch.manual_seed(0)
    net = Net()
    attach_provenance(net, Provenance(Source("module"), CLASSES, None, PREPROCESSING))
    return net, export_onnx(net, tmp_path_factory.mktemp("shipped") / "net.onnx")


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_one_file_lies_there(shipped: tuple[Net, OnnxReport]) -> None:
    _, report = shipped
    assert [file.name for file in report.path.parent.iterdir()] == ["net.onnx"]
    assert report.size == report.path.stat().st_size
    assert report.data is None
    assert (report.inputs, report.outputs) == ({"input": (3, 16, 16)}, {"logits": (5,)})


def test_ends_are_named_and_the_batch_is_free(shipped: tuple[Net, OnnxReport]) -> None:
    net, report = shipped
    session = session_of(report.path)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("input", ["batch", 3, 16, 16])
    assert (result.name, result.shape) == ("logits", ["batch", 5])
    for batch in (1, 3):
        images = torch.randn(batch, 3, 16, 16)
        (logits,) = session.run(None, {"input": images.numpy()})
        expected = copy.deepcopy(net).eval()(images).detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-5)


def test_parity_is_measured_at_batch_1_and_4(shipped: tuple[Net, OnnxReport]) -> None:
    parity = shipped[1].parity
    assert parity is not None
    assert parity.batch_sizes == (1, 4)
    assert parity.max_rel < 1e-5
    assert parity.top1_agreement == 1.0


def test_metadata_is_read_by_onnxruntime_alone(shipped: tuple[Net, OnnxReport]) -> None:
    metadata = session_of(shipped[1].path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert Preprocessing.from_dict(json.loads(metadata["preprocessing"])) == PREPROCESSING
    assert metadata["sesurgeon_version"]


def test_no_source_path_of_this_machine_is_in_the_file(shipped: tuple[Net, OnnxReport]) -> None:
    content = shipped[1].path.read_bytes()
    assert str(Path(__file__)).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_the_images_given_are_compared_too(net: Net, tmp_path: Path) -> None:
    parity = export_onnx(net, tmp_path / "net.onnx", example_inputs=torch.randn(2, 3, 16, 16)).parity
    assert parity is not None
    assert parity.batch_sizes == (1, 4, 2)


def test_without_verify_nothing_is_compared(net: Net, tmp_path: Path) -> None:
    assert export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGE, verify=False).parity is None


def test_a_block_is_pooling_two_layers_two_activations_and_one_product(tmp_path: Path) -> None:
    model = torchvision.models.resnet18().eval()
    augmented = add_se(model, example_inputs=torch.randn(1, 3, 32, 32), policy=("standard", "inner"))
    images = torch.randn(2, 3, 32, 32)
    kinds = []
    for network in (model, augmented):
        export_onnx(network, tmp_path / "net.onnx", example_inputs=images)
        kinds.append(Counter(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node))
    blocks = len(blocks_of(augmented))
    assert blocks == 16
    assert kinds[1] - kinds[0] == Counter(
        {"ReduceMean": blocks, "Conv": 2 * blocks, "Relu": blocks, "Sigmoid": blocks, "Mul": blocks}
    )


def test_the_callers_model_stays_as_it_is(net: Net, tmp_path: Path) -> None:
    net.train()
    net.norm.eval()  # a mode that differs from the root's
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    before = copy.deepcopy(net)
    gradients = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]

    export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGE)

    assert [module.training for module in net.modules()] == [module.training for module in before.modules()]
    for (name, now), then in zip(net.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(now, then), name
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_opset_asked_for_is_the_files(net: Net, tmp_path: Path) -> None:
    report = export_onnx(net, tmp_path / "net.onnx", opset=19, example_inputs=IMAGE)
    assert report.opset == 19
    versions = {entry.domain: entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import}
    assert versions == {"": 19}


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_that_cannot_be_had_is_refused(net: Net, tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"does not write opset {opset}") as caught:
        export_onnx(net, tmp_path / "net.onnx", opset=opset, example_inputs=IMAGE)
    assert caught.value.hint is not None
    assert "from 18 to " in caught.value.hint
    assert not list(tmp_path.iterdir())


class DifferentWhenExported(Net):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * (1 + (self.by if torch.compiler.is_exporting() else 0))


@pytest.mark.parametrize("by", [1, 1e-3])  # also by as little as a wrong operator may be
def test_a_file_that_computes_something_else_does_not_stay(by: float, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"the one before")
    with pytest.raises(VerificationError, match="off PyTorch's"):
        export_onnx(DifferentWhenExported(by), tmp_path / "net.onnx", example_inputs=IMAGE)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"the one before"


class BakedBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) + torch.zeros(2, 5)


class BatchOfOne(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).view(1, 5)


class BranchesOnValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) if x.mean() > 0 else self.features(-x)


class Untranslatable(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.features(x))


class Flattens(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten()


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (BakedBatch(), 2, "one batch size only"),
        (BatchOfOne(), 1, r"fails on an input of shape \(2, 3, 16, 16\)"),
        (BranchesOnValues(), 1, "could not be followed"),
        (Untranslatable(), 1, "no translation to ONNX: .*bessel_j0"),
        (Flattens(), 2, r"a batch of 2 into an output of shape \(10,\)"),
        (nn.Conv2d(4, 8, 3), 1, r"fails on an input of shape \(1, 3, 16, 16\).*4 channels"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_cannot_be_exported_is_refused(
    model: nn.Module, images: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UntraceableError, match=message):
        export_onnx(model, tmp_path / "net.onnx", example_inputs=torch.zeros(images, 3, 16, 16))
    assert not list(tmp_path.iterdir())


class Returns(Net):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        logits = self.features(x)
        several: dict[str, object] = {
            "tuple": (logits, x),
            "dict": {"out": logits, "aux": x},
            "nested": [{"boxes": logits}],
            "nothing": None,
        }
        return several[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_of_several_outputs_the_first_is_exported(kind: str, tmp_path: Path) -> None:
    report = export_onnx(Returns(kind), tmp_path / "net.onnx", example_inputs=IMAGE)
    assert report.outputs == {"logits": (5,)}


@pytest.mark.parametrize(("kind", "message"), [("nested", "a list that starts with a dict"), ("nothing", "NoneType")])
def test_an_output_without_a_tensor_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UntraceableError, match=message):
        export_onnx(Returns(kind), tmp_path / "net.onnx", example_inputs=IMAGE)


class Named(Net):
    """Tensors of its own are called as the ends of the file are."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = getattr(self, self.name)
        return super().forward(x) * factors


@pytest.mark.parametrize("name", ["input", "logits"])
def test_a_tensor_called_as_an_end_of_the_file_is_none(name: str, tmp_path: Path) -> None:
    report = export_onnx(Named(name), tmp_path / "net.onnx", example_inputs=IMAGE)
    assert name not in {one.name for one in onnx.load(report.path).graph.initializer}
    assert report.parity is not None
    assert report.parity.passed


class TakesAnyNumber(Net):
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.features(inputs[0])


class GivesAMask(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) > 0


@pytest.mark.parametrize("build", [TakesAnyNumber, GivesAMask])
def test_inputs_and_outputs_of_other_kinds(build: type[Net], tmp_path: Path) -> None:
    report = export_onnx(build(), tmp_path / "net.onnx", example_inputs=IMAGE)
    assert report.outputs == {"logits": (5,)}
    assert report.parity is not None
    assert report.parity.passed


def test_a_network_that_was_changed_since_surgery_is_exported_with_its_factors(net: Net, tmp_path: Path) -> None:
    model = add_se(net, example_inputs=torch.randn(2, 3, 16, 16))
    model.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)  # no more the network that the plan is for
    report = export_onnx(model, tmp_path / "net.onnx", example_inputs=torch.randn(1, 1, 16, 16))
    assert report.inputs == {"input": (1, 16, 16)}


def test_a_compiled_model_is_exported(net: Net, tmp_path: Path) -> None:
    report = export_onnx(torch.compile(net), tmp_path / "net.onnx", example_inputs=IMAGE)  # type: ignore[arg-type]
    assert report.outputs == {"logits": (5,)}


def test_a_half_precision_model_is_exported_in_float32(net: Net, tmp_path: Path) -> None:
    export_onnx(net.half(), tmp_path / "net.onnx", example_inputs=IMAGE.half())
    session = session_of(tmp_path / "net.onnx")
    assert session.get_inputs()[0].type == "tensor(float)"
    assert net.head.weight.dtype == torch.float16


def test_more_inputs_than_it_takes_are_refused(net: Net, tmp_path: Path) -> None:
    with pytest.raises(UntraceableError, match=r"\(1, 3, 16, 16\) and \(1, 3, 16, 16\): .* takes 2"):
        export_onnx(net, tmp_path / "net.onnx", example_inputs=(IMAGE, IMAGE))


def test_an_output_that_exists_is_kept_without_force(net: Net, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGE, force=False)
    assert (tmp_path / "net.onnx").read_bytes() == b"mine"


def test_above_the_limit_the_weights_lie_beside_the_file(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_ONE_FILE_LIMIT", 1000)
    report = export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert report.data == tmp_path / "net.onnx.data"
    assert report.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    session = session_of(tmp_path / "net.onnx")
    assert session.run(None, {"input": IMAGE.numpy()})[0].shape == (1, 5)


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x if (x < 9).all() else x / 9)


def test_no_graph_is_printed_where_the_network_cannot_be_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UntraceableError, match=r"could not be followed by torch\.export"):
        export_onnx(Branching(), tmp_path / "net.onnx", example_inputs=IMAGE)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed(net: Net, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(net, tmp_path / "net.onnx", example_inputs=IMAGE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_torchvision_networks(name: str, tmp_path: Path) -> None:
    from torchvision.models import get_model

    settings = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    report = export_onnx(get_model(name, **settings), tmp_path / "net.onnx", example_inputs=torch.randn(1, 3, 64, 64))
    assert report.outputs == {"logits": (1000,)}
    assert report.parity is not None
    assert report.parity.max_rel < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_timm_networks(name: str, tmp_path: Path) -> None:
    from timm import create_model

    torch.manual_seed(0)
    report = export_onnx(create_model(name), tmp_path / "net.onnx", example_inputs=torch.randn(1, 3, 64, 64))
    assert report.parity is not None
    assert report.parity.max_rel < 1e-5


class TakesMore(nn.Module):
    """Its images may come with a mask and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, mask: Tensor | None = None, factor: float = 2.0) -> Tensor:
        y = x + self.norm(self.conv(x)) * factor
        return y if mask is None else y * mask


def test_optional_arguments_of_the_plan_are_left_out(tmp_path: Path) -> None:
    augmented = add_se(TakesMore(), (torch.randn(2, 3, 20, 24), None, 2.0))
    export_onnx(augmented, tmp_path / "model.onnx")
    (given,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert [size.dim_value for size in given.type.tensor_type.shape.dim][1:] == [3, 20, 24]
