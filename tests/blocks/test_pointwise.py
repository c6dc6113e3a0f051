"""Convolutions at a single place: in training the product of matrices, with the convolution's outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck

from sesurgeon.blocks.kernel.pointwise import pointwise
from sesurgeon.blocks.layout import Convolution

LAYERS = {
    "1d": (lambda bias: nn.Conv1d(6, 4, 1, bias=bias), (3, 6, 1)),
    "2d": (lambda bias: nn.Conv2d(6, 4, 1, bias=bias), (3, 6, 1, 1)),
    "3d": (lambda bias: nn.Conv3d(6, 4, 1, bias=bias), (3, 6, 1, 1, 1)),
}


def is_fast(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "ViewBackward0"  # a matrix, given its places back


def backward(layer: Convolution, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad(y, (x, *layer.parameters()), torch.randn(y.shape).to(y))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_the_convolutions(dims: str, bias: bool, dtype: torch.dtype) -> None:
    build, shape = LAYERS[dims]
    layer = build(bias).to(dtype)
    x = torch.randn(shape).to(dtype).requires_grad_()
    found, expected = pointwise(layer, x), layer(x)
    assert is_fast(found)
    torch.testing.assert_close(found, expected)
    # sums of bfloat16 that cancel differ by the order of their terms, which is the machine's
    close = {torch.float32: {}, torch.bfloat16: {"rtol": 0.02, "atol": 0.02}}[dtype]
    torch.testing.assert_close(backward(layer, found, x), backward(layer, expected, x), **close)


def test_autocast_gives_gradients_of_the_parameters_type() -> None:
    layer, x = nn.Conv2d(6, 4, 1), torch.randn(3, 6, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = pointwise(layer, x), layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    of_found, of_expected = backward(layer, found, x), backward(layer, expected, x)
    assert all(one.dtype == torch.float32 for one in of_found)
    torch.testing.assert_close(of_found, of_expected, rtol=0.02, atol=0.02)


def test_it_can_be_differentiated_twice() -> None:
    layer, x = nn.Conv2d(3, 2, 1).double(), torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x, *_: pointwise(layer, x), (x, *layer.parameters()))


def test_frozen_parameters_and_inputs_get_none() -> None:
    layer, x = nn.Conv2d(6, 4, 1), torch.randn(3, 6, 1, 1)
    layer.weight.requires_grad_(False)
    pointwise(layer, x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert torch.equal(layer.bias.grad, torch.full((4,), 3.0))  # type: ignore[arg-type]


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("case", ["hooked", "replaced", "many places", "no batch", "no gradients", "eval mode"])
def test_otherwise_the_layer_itself_is_called(case: str) -> None:
    layer = Doubled(6, 4, 1) if case == "replaced" else nn.Conv2d(6, 4, 1)
    shape = {"many places": (3, 6, 2, 1), "no batch": (6, 1, 1)}.get(case, (3, 6, 1, 1))
    layer.train(case != "eval mode")
    x = torch.randn(shape)
    seen: list[Tensor] = []
    if case == "hooked":
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.set_grad_enabled(case != "no gradients"):
        found = pointwise(layer, x)
    assert not is_fast(found)
    assert torch.equal(found, layer(x))
    assert len(seen) == (2 if case == "hooked" else 0)
