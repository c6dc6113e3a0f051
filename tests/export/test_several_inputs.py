"""Files of networks that take more than one tensor: two photographs, a photograph and what is known of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import sesurgeon
from sesurgeon import UsageError, export_onnx, export_pt2
from sesurgeon.cli.app import app
from sesurgeon.export import measure_latency
from sesurgeon.export.prepare import prepare
from sesurgeon.export.trials import usual_trials

INPUTS = (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.randn(2, 5), torch.tensor([1, 3]))
SHAPES = {"left": (3, 16, 16), "right": (3, 16, 16), "about": (5,), "kind": ()}


class Compares(nn.Module):
    """What differs between two photographs, weighted by numbers and by a category."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3))
        self.scale, self.kinds, self.head = nn.Linear(5, 16), nn.Embedding(10, 16), nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor, about: Tensor, kind: Tensor) -> Tensor:
        difference = (self.stem(left) - self.stem(right)).mean((2, 3))
        return self.head(difference * self.scale(about) + self.kinds(kind))


class Adds(nn.Module):
    """Any number of photographs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return torch.stack([self.conv(images) for images in (first, *others)]).sum(0).mean((2, 3))


def moved() -> nn.Module:
    """With blocks whose gates are no identities any more."""
    torch.manual_seed(0)
    network = sesurgeon.add_se(Compares(), INPUTS, policy="conv")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def others(batch: int) -> tuple[Tensor, ...]:
    return (*(torch.randn(batch, *shape) for shape in list(SHAPES.values())[:3]), torch.arange(batch))


def in_onnxruntime(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(found)


@pytest.mark.parametrize("for_cpu", [False, True])
def test_onnx_inputs_are_called_like_those_of_forward(for_cpu: bool, tmp_path: Path) -> None:
    network = moved()
    report = export_onnx(network, tmp_path / "net.onnx", for_cpu=for_cpu)  # the plan knows the inputs
    assert report.inputs == SHAPES
    assert report.parity is not None
    assert report.parity.passed
    inputs = others(5)
    got = in_onnxruntime(report.path, dict(zip(SHAPES, inputs, strict=True)))
    torch.testing.assert_close(got, network(*inputs).detach(), atol=1e-5, rtol=1e-5)


def test_pt2_takes_them_in_order(tmp_path: Path) -> None:
    network, inputs = moved(), others(5)
    report = export_pt2(network, tmp_path / "net.pt2", example_inputs=INPUTS)
    assert report.inputs == SHAPES
    loaded = torch.export.load(report.path).module()
    assert torch.equal(loaded(*inputs), network(*inputs))


def test_noise_differs_from_input_to_input_and_categories_are_the_examples() -> None:
    for trial in usual_trials(prepare(Compares(), INPUTS)):
        left, right, _, kind = trial.inputs.values()
        assert not torch.equal(left, right)
        assert set(kind.tolist()) <= {1, 3}


def test_int8_takes_ranges_from_all_inputs_and_ignores_labels(tmp_path: Path) -> None:
    batches = [(*others(8), torch.zeros(8)), others(8)]
    report = export_onnx(moved(), tmp_path / "net.onnx", precision="int8", calibration=batches)
    assert report.parity is not None
    assert report.parity.batch_sizes == (8, 8)
    assert report.parity.max_rel < 0.1


@pytest.mark.parametrize(("count", "names"), [(1, ["input"]), (3, ["input_1", "input_2", "input_3"])])
def test_those_without_a_name_are_numbered(count: int, names: list[str], tmp_path: Path) -> None:
    network, images = Adds().eval(), tuple(torch.randn(2, 3, 8, 8) for _ in range(count))
    report = export_onnx(network, tmp_path / "net.onnx", example_inputs=images)
    assert list(report.inputs) == names
    got = in_onnxruntime(report.path, dict(zip(names, images, strict=True)))
    torch.testing.assert_close(got, network(*images).detach(), atol=1e-5, rtol=1e-5)
    assert export_pt2(network, tmp_path / "net.pt2", example_inputs=images).parity is not None


def test_an_output_that_is_called_like_an_input_gets_another_name(tmp_path: Path) -> None:
    class Refines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 3, 3, padding=1)

        def forward(self, images: Tensor, logits: Tensor) -> dict[str, Tensor]:
            return {"images": images, "logits": self.conv(torch.cat((images, logits), 1))}

    images = torch.randn(2, 3, 8, 8)
    for every, names in ((False, ["output_logits"]), (True, ["output_images", "output_logits"])):
        report = export_onnx(
            Refines(), tmp_path / "net.onnx", example_inputs=(images, images), all_outputs=every, force=True
        )
        assert list(report.outputs) == names


class Ignores(nn.Module):
    """What its second input is for, nobody knows; its third is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor, about: Tensor, extra: Tensor | None = None) -> Tensor:
        return self.conv(images).relu().mean((2, 3))


@pytest.mark.parametrize("choice", [{}, {"simplify": True}, {"simplify": True, "precision": "int8"}])
def test_one_that_no_output_depends_on_stays_an_input(choice: dict[str, Any], tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 5))
    if "precision" in choice:
        choice = {**choice, "calibration": [inputs]}
    report = export_onnx(Ignores().eval(), tmp_path / "net.onnx", example_inputs=(*inputs, None), **choice)
    assert list(report.inputs) == ["images", "about"]
    in_onnxruntime(report.path, dict(zip(report.inputs, inputs, strict=True)))


def test_what_was_optional_when_the_blocks_went_in_is_left_out(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 5))
    network = sesurgeon.add_se(Ignores(), (*inputs, None), policy="conv")
    assert list(export_onnx(network, tmp_path / "net.onnx").inputs) == ["images", "about"]
    found = measure_latency(network, Ignores(), (*inputs, None), repeats=2, runtimes=["onnxruntime"])
    assert all(ratio.failure is None for ratio in found)


def test_a_single_one_is_float32_whatever_the_example(tmp_path: Path) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images.float() / 255).mean((2, 3))

    images = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    report = export_onnx(Scales().eval(), tmp_path / "net.onnx", example_inputs=images)
    in_onnxruntime(report.path, {"input": images.float()})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((INPUTS[0], torch.zeros(3, 5)), r"are a tensor of shape \(2, 3, 16, 16\), a tensor of shape \(3, 5\)"),
        ((INPUTS[0], torch.tensor(1.0)), r"a tensor of shape \(\)"),
        ((INPUTS[0], [INPUTS[1]]), "of type list"),
        ((), "are nothing"),
    ],
)
def test_inputs_without_a_common_batch_are_refused(inputs: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        export_onnx(Compares(), tmp_path / "net.onnx", example_inputs=inputs)
    with pytest.raises(UsageError, match=r"compare_on must be batches of .* 4 and 4 and 2 and 1 dimensions"):
        export_onnx(Compares(), tmp_path / "net.onnx", example_inputs=INPUTS, compare_on=[INPUTS[:2]])
    assert list(tmp_path.iterdir()) == []


def test_latency_in_onnxruntime_feeds_all_of_them() -> None:
    network = moved()
    found = measure_latency(network, sesurgeon.remove_se(network), INPUTS, repeats=2, runtimes=["onnxruntime"])
    assert [(ratio.batch, ratio.failure) for ratio in found] == [(1, None), (2, None)]


def test_the_command_names_and_shapes_them(tmp_path: Path) -> None:
    path = tmp_path / "net.se.pt"
    sesurgeon.save(moved(), path)
    result = CliRunner().invoke(app, ["export", str(path), "--onnx", "--trust-pickle", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inputs"] == {name: list(shape) for name, shape in SHAPES.items()}
    shown = CliRunner().invoke(app, ["export", str(path), "--pt2", "--trust-pickle"]).stdout
    assert re.search(r"left .*\(batch, 3, 16, 16\)", shown)
    assert re.search(r"kind .*\(batch\)", shown)
