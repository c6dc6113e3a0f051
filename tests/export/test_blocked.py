"""ONNX for onnxruntime's kernels on CPUs: other nodes, the same outputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from sesurgeon.errors import UsageError
from sesurgeon.export import export_onnx
from sesurgeon.surgery import add_se, blocks_of
from tests.networks import OddNet, trained_like


def bottlenecks(*, policy: str, block: str = "se") -> nn.Module:
    """One with a projection on its shortcut and one without, 64 channels in the stream, live gates."""
    torch.manual_seed(0)
    project = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64))
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), Bottleneck(16, 16, downsample=project), Bottleneck(64, 16)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    augmented = add_se(trained_like(model), torch.randn(2, 3, 20, 32), policy=policy, block=block)
    for inserted in blocks_of(augmented).values():
        for parameter in inserted.parameters():
            nn.init.normal_(parameter, std=0.3)
    return augmented.eval()


def written(model: nn.Module, images: Tensor, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The portable file and that for CPUs, both compared with PyTorch by the exporter on ``images`` and others."""
    files = {name: folder / f"{name}.onnx" for name in ("any", "cpu")}
    for name, path in files.items():
        report = export_onnx(model, path, example_inputs=images, for_cpu=name == "cpu")
        assert report.parity is not None
        assert report.parity.max_rel < 1e-5
        assert report.parity.batch_sizes == (1, 4, len(images))
    return onnx.load(files["any"]), onnx.load(files["cpu"])


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_factors_are_spread_and_a_convolution_takes_the_sum_along(tmp_path: Path) -> None:
    portable, for_cpu = written(bottlenecks(policy="standard"), torch.randn(2, 3, 20, 32), tmp_path)
    assert kinds(portable)["ReduceMean"] == 3
    expected = kinds(portable) - Counter({"ReduceMean": 3})
    expected += Counter({"GlobalAveragePool": 3, "MaxPool": 2 * 2})
    expected += Counter({"Conv": 1})  # behind one product of two: the other's sum is with a projection
    assert kinds(for_cpu) == expected


def test_means_of_a_pointwise_convolution_are_taken_before_it(tmp_path: Path) -> None:
    portable, for_cpu = written(bottlenecks(policy="standard"), torch.randn(2, 3, 20, 32), tmp_path)
    widths = [{weight.name: tuple(weight.dims) for weight in model.graph.initializer} for model in (portable, for_cpu)]
    assert sum(shape == (8, 64, 1, 1) for shape in widths[0].values()) == 2  # fc1 of 64 channels
    assert sum(shape == (8, 64, 1, 1) for shape in widths[1].values()) == 0
    # And of the 16 before the last convolution, with 8 hidden units that are zero, for a whole block of channels.
    assert [sum(shape == (16, 16, 1, 1) for shape in found.values()) for found in widths] == [1, 1 + 2]


@pytest.mark.parametrize("policy", ["standard", "inner"])
def test_tensors_keep_their_layout(policy: str, tmp_path: Path) -> None:
    portable, for_cpu = written(bottlenecks(policy=policy), torch.randn(2, 3, 20, 32), tmp_path)

    def changes(model: onnx.ModelProto) -> int:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = kinds(onnx.load(tmp_path / "optimized.onnx"))
        return found["ReorderInput"] + found["ReorderOutput"]

    if changes(portable) == 0:
        pytest.skip("onnxruntime keeps no blocks of channels on this processor")
    assert changes(for_cpu) <= 1  # before the classifier


def test_hidden_units_that_fill_a_block_are_zero(tmp_path: Path) -> None:
    _, for_cpu = written(bottlenecks(policy="inner"), torch.randn(2, 3, 20, 32), tmp_path)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in for_cpu.graph.initializer}
    filled = {name: weight for name, weight in weights.items() if "_filled_" in name}
    assert sorted(weight.shape for weight in filled.values()) == 2 * [(16,)] + 4 * [(16, 16, 1, 1)]
    for weight in filled.values():
        units = weight if weight.ndim == 1 else weight[:, :, 0, 0]
        assert (units[8:] == 0).all() or (units[:, 8:] == 0).all()
        assert (units[:8] != 0).any()


class Squeezed(nn.Module):
    """Hidden layers of 8 units that are used in other ways than an SE block does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.fc1, self.fc2, self.other = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)
        self.middle = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x.mean((2, 3), keepdim=True)).relu()
        if self.kind == "two readers":
            return x * self.fc2(hidden).sigmoid() * self.other(hidden).sigmoid()
        if self.kind == "summed":
            return x * self.fc2(hidden).sigmoid() + hidden.mean(1, keepdim=True)
        if self.kind == "three layers":
            return x * self.fc2(self.middle(hidden).relu()).sigmoid()
        return x * self.fc2(self.middle(self.middle(hidden).relu()).relu()).sigmoid()


@pytest.mark.parametrize("kind", ["two readers", "summed", "three layers", "a layer twice"])
def test_hidden_layers_of_other_shapes_compute_the_same(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), Squeezed(kind)]
    written(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), torch.randn(2, 3, 20, 32), tmp_path)


@pytest.mark.parametrize("block", ["cbam", "ge"])
def test_other_blocks_compute_the_same(block: str, tmp_path: Path) -> None:
    portable, for_cpu = written(bottlenecks(policy="standard", block=block), torch.randn(2, 3, 20, 32), tmp_path)
    assert kinds(for_cpu)["ReduceMean"] <= kinds(portable)["ReduceMean"]


def test_networks_of_any_kind_compute_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 33, 33)
    network = add_se(trained_like(OddNet()), images, policy=["standard", "inner", "post"])
    for inserted in blocks_of(network).values():
        for parameter in inserted.parameters():
            nn.init.normal_(parameter, std=0.3)
    written(network.eval(), images, tmp_path)


def test_it_is_for_float32(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for_cpu is for float32, not for float16"):
        export_onnx(bottlenecks(policy="inner"), tmp_path / "net.onnx", for_cpu=True, precision="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_ends_in_what_is_rewritten_gives_its_logits(tmp_path: Path) -> None:
    features = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    portable, for_cpu = written(features, torch.randn(2, 3, 20, 32), tmp_path)
    assert kinds(for_cpu)["GlobalAveragePool"] == 1
    assert [output.name for output in for_cpu.graph.output] == [output.name for output in portable.graph.output]


class SharedLayer(nn.Module):
    """A layer that reads the means of two, which read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.fc(layer(x).mean((2, 3), keepdim=True)) for layer in (self.first, self.second))
        return torch.flatten(first - 2 * second, 1)


class ShowsItsParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.conv(x).mean((2, 3), keepdim=True)
        hidden = self.fc1(pooled).relu()
        return {"pooled": pooled, "hidden": hidden, "out": self.fc2(hidden)}


def test_what_the_network_gives_is_not_rewritten(tmp_path: Path) -> None:
    report = export_onnx(
        ShowsItsParts(), tmp_path / "net.onnx", example_inputs=torch.randn(2, 3, 8, 8), for_cpu=True, all_outputs=True
    )
    assert {name: shape[0] for name, shape in report.outputs.items()} == {"pooled": 8, "hidden": 12, "out": 8}


def test_a_layer_merges_with_each_that_it_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, for_cpu = written(SharedLayer().eval(), torch.randn(2, 3, 20, 32), tmp_path)
    shapes = [tuple(one.dims) for one in for_cpu.graph.initializer if len(one.dims) == 4]
    assert shapes == [(5, 3, 1, 1)] * 2


@pytest.mark.parametrize("options", [{"groups": 4}, {"stride": 2}, {"padding": 1}])
def test_other_convolutions_of_size_1_are_not_merged(options: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1, **options), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1)]
    written(nn.Sequential(*body, nn.Flatten()).eval(), torch.randn(2, 3, 20, 32), tmp_path)


class OneFactorAnImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return x + self.conv(x) * self.gate(x).mean((2, 3), keepdim=True).sigmoid()


def test_factors_of_one_channel_are_spread_over_all(tmp_path: Path) -> None:
    _, for_cpu = written(OneFactorAnImage(), torch.randn(2, 16, 12, 12), tmp_path)
    assert kinds(for_cpu)["MaxPool"] in (0, 2)
