"""Inserted blocks that are differentiated as one with the BatchNorm before them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.autograd.graph import Node

import sesurgeon
from sesurgeon.blocks.kernel.norms import norm_giving
from sesurgeon.export import measure_memory
from sesurgeon.surgery.rewrite import blocks_of


def nodes_behind(output: Tensor) -> Iterator[Node]:
    waiting, seen = [output.grad_fn], set[Node]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node


def joined(output: Tensor) -> int:
    return sum("ScaleNormed" in type(node).__name__ for node in nodes_behind(output))


def enlivened(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "se.fc" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(0)  # stochastic depth
    return list(torch.autograd.grad(model(images).square().sum(), list(model.parameters())))


@pytest.mark.parametrize(
    "model",
    [
        torchvision.models.resnet18(num_classes=3),
        torchvision.models.mobilenet_v2(num_classes=3, dropout=0),
        timm.create_model("test_resnet", num_classes=3),
        timm.create_model("regnetx_002", num_classes=3),
        timm.create_model("efficientnet_lite0", num_classes=3, drop_path_rate=0.1),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("training", [True, False])
def test_all_blocks_at_the_ends_of_branches_are(model: nn.Module, training: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    augmented = enlivened(sesurgeon.add_se(model.double(), images)).train(training)
    watched = copy.deepcopy(augmented)
    for module in watched.modules():
        if norm_giving(module) is not None:
            module.register_forward_hook(lambda *_: None)
    torch.manual_seed(0)  # stochastic depth
    output = augmented(images)
    torch.manual_seed(0)
    expected = watched(images)
    assert joined(output) == len(blocks_of(augmented))
    assert joined(expected) == 0
    assert torch.equal(output, expected)
    torch.testing.assert_close(gradients(augmented, images), gradients(watched, images))


def test_a_tensor_that_others_read_too_stays_as_it_was() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.branch = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            return y + self.branch(y)

    model, x = Fork(), torch.randn(2, 3, 6, 6)
    augmented = enlivened(sesurgeon.add_se(model, x, policy="pre"))
    output = augmented(x)
    y = augmented.bn(augmented.conv(x))  # type: ignore[operator]
    assert joined(output) == 0
    assert torch.equal(output, y + augmented.branch(augmented.se(y)))  # type: ignore[operator]


def test_a_training_step_takes_less_memory_than_if_the_tensors_that_are_scaled_were_kept() -> None:
    base, images = timm.create_model("resnet18"), torch.randn(4, 3, 64, 64)
    (ours,) = measure_memory(base, sesurgeon.add_se(base, images), images, batch=4, runtimes=("training",))
    (theirs,) = measure_memory(base, timm.create_model("seresnet18"), images, batch=4, runtimes=("training",))
    assert ours.augmented_bytes - ours.base_bytes < 0.5 * (theirs.augmented_bytes - theirs.base_bytes)


def test_a_tracer_sees_both_modules() -> None:
    augmented = sesurgeon.add_se(timm.create_model("test_resnet"), torch.randn(2, 3, 64, 64))
    called = [node.target for node in fx.symbolic_trace(augmented).graph.nodes if node.op == "call_module"]
    for path in blocks_of(augmented):
        norm, owner = called[called.index(f"{path}.fc1") - 1], path.removesuffix(".se")
        assert norm in (f"{owner}.bn2", f"{owner}.bn3")
