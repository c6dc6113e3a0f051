"""Blocks whose parts are not as we made them: what autograd finds for them, not what we would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import tensor, trained
from torch import Tensor, nn
from ways import KINDS, is_fast, plain

from sesurgeon.blocks import BlockConfig


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_all", [False, True])
def test_what_hooks_on_its_parts_see_passes_gradients_on(kind: str, on_all: bool) -> None:
    block, x = trained(BlockConfig(kind)).double(), tensor(dtype=torch.float64).requires_grad_()  # type: ignore
    inputs = (x, *block.parameters())
    expected = torch.autograd.grad(plain(block, x).sum() + block.excitation(x).square().sum(), inputs)
    seen = list[Tensor]()

    def see(module: nn.Module, _: object, output: Tensor) -> None:
        if module is block.gate:
            seen.append(output)

    on = nn.modules.module.register_module_forward_hook if on_all else block.gate.register_forward_hook
    handle = on(see)
    try:
        y = block(x)
    finally:
        handle.remove()
    (factors,) = seen
    torch.testing.assert_close(torch.autograd.grad(y.sum() + factors.square().sum(), inputs), expected)


class Forgetting(nn.Module):
    """Lets every second call through: as dropout and spectral norms, no function of its input alone."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (self.calls % 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_no_function_is_called_once_for_gradients_of_gradients(kind: str) -> None:
    block = trained(BlockConfig(kind, gate="sigmoid")).double()  # type: ignore[arg-type]
    assert isinstance(block.gate, nn.Module)
    x = tensor(dtype=torch.float64).requires_grad_()

    def twice(run: Callable[[Tensor], Tensor]) -> Tensor:
        once = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)[0]
        return torch.autograd.grad(once.square().sum(), x)[0]

    expected = twice(block)
    assert is_fast(block(x))
    block.gate = nn.Sequential(block.gate, Forgetting())
    torch.testing.assert_close(twice(block), expected)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(("kind", "layer"), [("se", "fc1"), ("se", "fc2"), ("ese", "fc")])
def test_a_weight_that_its_owner_computed_passes_its_gradient_on(kind: str, layer: str, name: str) -> None:
    block, x = trained(BlockConfig(kind)), tensor()  # type: ignore[arg-type]
    part = block.get_submodule(layer)
    origin = getattr(part, name)
    expected = torch.autograd.grad(plain(block, x).square().sum(), origin)[0]
    delattr(part, name)
    setattr(part, name, 1 * origin)
    torch.testing.assert_close(torch.autograd.grad(block(x).square().sum(), origin)[0], expected)
