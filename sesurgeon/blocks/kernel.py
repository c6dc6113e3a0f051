"""Scaling by what the mean says, in as few passes over the tensor as there can be.

Autograd's own way keeps a product of the tensor's size for a moment, and reads and writes the tensor eleven times
forward and backward. Here it is three forward (mean; scale and write) and four backward (the gate's gradient is a dot
product, the tensor's a single ``addcmul``), and nothing but the tensor itself is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sesurgeon.blocks.layout import Layout

Factors = Callable[[Tensor], Tensor]
"""From means (N, C, 1, ...) to factors of that shape."""


def scaled_by_mean(x: Tensor, layout: Layout, factors: Factors, parameters: Iterable[Tensor]) -> Tensor:
    """``x * factors(mean of x over its places)``: the very bits of the plain operations, with a faster backward pass.

    The plain operations are taken where nothing is to be differentiated, and where somebody looks at the operations
    themselves: compilers, exporters, tracers, ``torch.func``, forward-mode differentiation.

    Args:
        x: of ``layout``, with or without a batch.
        layout: of ``x``.
        factors: a function of the means and of ``parameters``, of nothing else that could need gradients.
        parameters: that ``factors`` reads.
    """
    if not _is_plain_training(x):
        return x * layout.restored(factors(layout.squeezed(x)))
    scaled: Tensor = _ScaleByMean.apply(x, layout, factors, *parameters)
    return scaled


def _is_plain_training(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and x.layout == torch.strided
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


class _ScaleByMean(torch.autograd.Function):
    """The graph from means to factors is small, and is kept as autograd makes it, as checkpointing does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, factors: Factors, *parameters: Tensor) -> Tensor:
        mean = layout.squeezed(x)
        with torch.enable_grad():
            mean = mean.detach().requires_grad_()
            scale = layout.restored(factors(mean))
        ctx.save_for_backward(x, *parameters)
        ctx.layout, ctx.factors, ctx.mean, ctx.scale = layout, factors, mean, scale
        return x * scale.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        layout: Layout = ctx.layout
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        if torch.is_grad_enabled():  # it will be differentiated once more
            scaled = x * layout.restored(ctx.factors(layout.squeezed(x)))
            of_x, *of_parameters = _gradients(scaled, (x, *parameters), needed, grad, create_graph=True)
            return of_x, None, None, *of_parameters
        scale: Tensor = ctx.scale
        of_scale = _sum_of_products(grad, x.to(grad.dtype), layout).to(scale.dtype)
        of_mean, *of_parameters = _gradients(scale, (ctx.mean, *parameters), needed, of_scale)
        if not needed[0]:
            return None, None, None, *of_parameters
        fixed = scale.detach().to(grad.dtype)
        if of_mean is None:  # the factors do not depend on it
            return (grad * fixed).to(x.dtype), None, None, *of_parameters
        share = layout.restored(of_mean) / (x.numel() // of_mean.numel())
        of_x = torch.addcmul(share.to(grad.dtype), grad, fixed).to(x.dtype)
        return of_x, None, None, *of_parameters


def _gradients(
    output: Tensor, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], grad: Tensor, *, create_graph: bool = False
) -> list[Tensor | None]:
    """Of those inputs that need one; None for the others. The graph is kept: a user may go back twice."""
    wanted = [one for one, needs in zip(inputs, needed, strict=True) if needs]
    if not output.requires_grad:
        return [None] * len(inputs)
    found = iter(
        torch.autograd.grad(output, wanted, grad, retain_graph=True, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if needs else None for needs in needed]


def _sum_of_products(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``(a * b)`` summed over the places, which keep size 1; without a product of the tensor's size where that can be.

    Where channels come last in memory, the product is that of one image after the other: it stays in the cache.
    """
    shape = [1 if index - a.dim() in layout.places else size for index, size in enumerate(a.shape)]
    a, b = layout.channels_first(a), layout.channels_first(b)
    if a.numel() > 0 and a.is_contiguous() and b.is_contiguous():
        rows, others = (one.flatten(0, layout.first).flatten(1) for one in (a, b))
        return torch.bmm(rows[:, None, :], others[:, :, None]).view(shape)
    a, b = (one.movedim(layout.first, -1) for one in (a, b))
    if a.dim() > layout.spatial_dims + 1 and a.is_contiguous() and b.is_contiguous():
        images = zip(a.flatten(1, -2), b.flatten(1, -2), strict=True)
        return torch.stack([(one * other).sum(0) for one, other in images]).view(shape)
    return (a * b).sum(tuple(range(-1 - layout.spatial_dims, -1))).view(shape)
