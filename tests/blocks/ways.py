"""The way back through a block, ours and autograd's, and how they are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from cases import trained
from torch import Tensor, nn

from sesurgeon.blocks import Block, BlockConfig
from sesurgeon.blocks.block import Scaling

KINDS = ("se", "ese", "eca")

MEMORY: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:, :, :1, :1].expand_as(x),
    "sliced": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
}


def plain(block: Block, x: Tensor) -> Tensor:
    """The operations as autograd sees them."""
    assert isinstance(block, Scaling)
    return x * block.excitation(x)


def gradients(run: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor, seen: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    return list(torch.autograd.grad(run(x), (x, *block.parameters()), seen))


def is_fast(y: Tensor) -> bool:
    return y.grad_fn is not None and "ScaleByMean" in type(y.grad_fn).__name__


def errors_in_half_precision(shape: tuple[int, ...], order: str, dtype: torch.dtype, device: str) -> list[float]:
    """Of each gradient, our error over autograd's, from many draws: a single one may be rounded this way or that."""
    ours, theirs = list[list[float]](), list[list[float]]()
    for seed in range(20):
        torch.manual_seed(seed)
        half = trained(BlockConfig("se")).to(device, dtype)
        x, seen = (MEMORY[order](torch.randn(shape).to(device, dtype)) for _ in range(2))
        assert torch.equal(half(x), plain(half, x))
        exact = copy.deepcopy(half).double()
        truth = gradients(lambda x: plain(exact, x), exact, x.double(), seen.double())  # noqa: B023
        for errors, run in ((ours, half), (theirs, lambda x: plain(half, x))):  # noqa: B023
            found = gradients(run, half, x, seen)
            assert all(one.dtype == dtype for one in found)
            errors.append([float((one - right).norm()) for one, right in zip(found, truth, strict=True)])
    return [sum(a) / sum(b) for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)]
