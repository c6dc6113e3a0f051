"""A norm with a block behind it, and how what the two do together is compared with one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from cases import CHANNELS, scramble, trained
from torch import Tensor, nn

from sesurgeon.blocks import Block, BlockConfig
from sesurgeon.blocks.kernel.behind_norm import scaled_result
from sesurgeon.blocks.layout import Layout


def is_joined(y: Tensor) -> bool:
    return y.grad_fn is not None and "ScaleNormed" in type(y.grad_fn).__name__


def pair(kind: str = "se", dims: int = 2, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Block]:
    """A norm and a block whose weights and statistics are no start values."""
    torch.manual_seed(0)
    norm = Layout(dims).batch_norm(CHANNELS)
    scramble(norm)
    return norm.to(dtype), trained(BlockConfig(kind), dims).to(dtype)  # type: ignore[arg-type]


def batch(*places: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(3, CHANNELS, *places) + 1).to(dtype)


def gradients(run: Callable[[Tensor], Tensor], parts: tuple[nn.Module, ...], x: Tensor, seen: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    parameters = [one for part in parts for one in part.parameters()]
    return list(torch.autograd.grad(run(x), (x, *parameters), seen))


def assert_alike(
    module: nn.Module, block: nn.Module, x: Tensor, seen: Tensor | None = None, joined: bool = True
) -> None:
    """The same output, statistics and gradients as by one call after the other."""
    seen = torch.randn_like(x) if seen is None else seen
    other, other_block = copy.deepcopy(module), copy.deepcopy(block)
    y = scaled_result(module, block, x.detach().requires_grad_())
    assert is_joined(y) == joined
    assert torch.equal(y, other_block(other(x)))
    for (name, ours), theirs in zip(module.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    found = gradients(lambda x: scaled_result(module, block, x), (module, block), x, seen)
    expected = gradients(lambda x: other_block(other(x)), (other, other_block), x, seen)
    torch.testing.assert_close(found, expected)
