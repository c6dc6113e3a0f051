"""Scaling by what the mean says, in as few passes over the tensor as there can be.

Autograd's own way keeps a product of the tensor's size for a moment, and reads and writes the tensor eleven times
forward and backward. Here it is three forward (mean; scale and write) and four backward (the gate's gradient is a dot
product, the tensor's a single ``addcmul``), and of the tensor's size nothing but the tensor itself is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sesurgeon.blocks.eager import is_plain_training, is_transformed
from sesurgeon.blocks.excitation import ByAutograd, Excitation, Returned, gradients
from sesurgeon.blocks.layout import Layout
from sesurgeon.blocks.pages import fresh_like


class ByMean(Protocol):
    """A module that scales a tensor by factors of its means.

    Attributes:
        layout: of the tensor.
    """

    layout: Layout

    def factors(self, squeezed: Tensor) -> Tensor:
        """Of the means, both (N, C, 1, ...); of them and of the parameters, of nothing else that needs gradients."""

    def by_hand(self, x: Tensor, parameters: Sequence[Tensor]) -> Excitation | None:
        """The same function of ``x``'s means and of all parameters, where somebody wrote down its gradients."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of any module."""


def scaled_by_mean(x: Tensor, block: ByMean) -> Tensor:
    """``x * factors(mean of x over its places)``: the very bits of the plain operations, with a faster backward pass.

    The plain operations are taken wherever it is not :func:`is_plain_training`, where others stand in for the
    parameters (``torch.func.functional_call``, ``DataParallel``), as they may be gone when one goes back, and where
    parameters have hooks, which would be called by our gradients and again by autograd's.

    Args:
        x: of the block's layout, with or without a batch.
        block: what is done to it.
    """
    parameters = tuple(block.parameters())
    own = len(parameters) > 0 and all(isinstance(one, nn.Parameter) and not one._backward_hooks for one in parameters)
    if not (own and is_plain_training(x) and x.numel() > 0):
        return _plain(x, block)
    excitation = block.by_hand(x, parameters) or ByAutograd(block.factors)
    scaled: Tensor = _ScaleByMean.apply(x, block, excitation, *parameters)
    return scaled


def _plain(x: Tensor, block: ByMean) -> Tensor:
    return x * block.layout.restored(block.factors(block.layout.squeezed(x)))


class _ScaleByMean(torch.autograd.Function):
    """What it keeps hangs on saved tensors, so that autograd frees it as soon as the way back has passed here.

    As attributes of ``ctx``, means and hidden units of all blocks would stay until the whole network's backward pass
    is over.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: ByMean, excitation: Excitation, *parameters: Tensor) -> Tensor:
        scale, kept = excitation.forth(block.layout.squeezed(x), parameters)
        ctx.save_for_backward(x, *parameters, *kept)
        ctx.block, ctx.excitation = block, excitation
        return torch.mul(x, block.layout.restored(scale), out=fresh_like(x, torch.result_type(x, scale)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        block: ByMean = ctx.block
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        parameters, kept = saved[: len(needed) - 1], saved[len(needed) - 1 :]
        if torch.is_grad_enabled():  # it will be differentiated once more
            _require_own(parameters, block)
            # by a graph of its own: going back through it frees what it kept, and this function may be called again;
            # of another view, because hooks on x are called by autograd already
            view = x.view_as(x)
            of_x, *of_parameters = gradients(_plain(view, block), (view, *parameters), needed, grad, create_graph=True)
            return of_x, None, None, *of_parameters
        of_factors = block.layout.channels_first(_sum_of_products(grad, x.to(grad.dtype), block.layout))
        found = ctx.excitation.back(kept, parameters, of_factors, needed)
        of_x = _of_input(grad, found, block.layout).to(x.dtype) if needed[0] else None
        return of_x, None, None, *found.of_parameters


def _require_own(parameters: Sequence[Tensor], block: ByMean) -> None:
    """The block would compute with others than those whose gradients are asked for."""
    now = tuple(block.parameters())
    if len(now) != len(parameters) or any(a is not b for a, b in zip(now, parameters, strict=True)):
        raise RuntimeError(
            f"The parameters of {type(block).__name__} are not those of its forward pass, and gradients of gradients "
            "cannot be taken. Hand torch.func.functional_call tensors in place of nn.Parameter, or go back within it."
        )


def _of_input(grad: Tensor, found: Returned, layout: Layout) -> Tensor:
    factors = layout.restored(found.factors).to(grad.dtype)
    if found.of_mean is None:  # the factors do not depend on it
        return grad * factors
    share = layout.restored(found.of_mean) / (grad.numel() // found.of_mean.numel())
    return _scaled_and_shifted(grad, factors, share.to(grad.dtype), layout)


# BatchNorm's loops of the CPU are a dot product and a multiplication with an addition, a row after the other, at the
# speed of the memory. torch has no others: bmm takes rows three times as long, addcmul with factors per row twice.


def _sum_of_products(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``(a * b)`` summed over the places, which keep size 1; on a CPU without a product of the tensor's size."""
    shape = [1 if index - a.dim() in layout.places else size for index, size in enumerate(a.shape)]
    if (rows := _rows(a, b, layout)) is not None:
        return _dot_products(*rows).view(shape)
    if (images := _images_of_channels_last(a, b, layout)) is not None:
        return torch.stack([_dot_products(*pair) for pair in images]).view(shape)
    return (a * b).sum(layout.places, keepdim=True)


def _scaled_and_shifted(a: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    """``a * scale + shift`` for factors of each image and channel, in one pass."""
    if not _is_cpu_memory(a):
        return torch.addcmul(shift, a, scale)
    found = fresh_like(a, a.dtype)
    rows = _rows(a, found, layout)
    if rows is None:
        return torch.addcmul(shift, a, scale, out=found)
    zeros, ones = _standard(rows[0])
    unused = zeros[:0]
    torch.ops.aten.native_batch_norm.out(
        rows[0], scale.flatten().to(ones), shift.flatten().to(ones), zeros, ones, False, 0.0, 0.0,
        out=rows[1], save_mean=unused, save_invstd=unused.clone(),
    )  # fmt: skip
    return found


def _rows(a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Two tensors on a CPU as (1, N * C, places); None where places are not next to each other in memory."""
    if not _is_cpu_memory(a):
        return None
    first, second = layout.channels_first(a), layout.channels_first(b)
    if not (first.is_contiguous() and second.is_contiguous()):
        return None
    return first.flatten(0, layout.first).flatten(1)[None], second.flatten(0, layout.first).flatten(1)[None]


def _images_of_channels_last(a: Tensor, b: Tensor, layout: Layout) -> Iterable[tuple[Tensor, Tensor]] | None:
    """Of two tensors on a CPU each image as (1, C, places, 1); None where channels are not next to each other."""
    if not _is_cpu_memory(a):
        return None
    last = [one.movedim(layout.first, -1) for one in (layout.channels_first(a), layout.channels_first(b))]
    if not (a.dim() > layout.spatial_dims + 1 and all(one.is_contiguous() for one in last)):
        return None
    first, second = (one.flatten(1, -2).movedim(-1, 1)[:, None, :, :, None] for one in last)
    return zip(first, second, strict=True)


def _is_cpu_memory(x: Tensor) -> bool:
    """Whether a CPU's loops may read it and write to one like it."""
    return x.device.type == "cpu" and x.numel() > 0 and not is_transformed()


def _dot_products(a: Tensor, b: Tensor) -> Tensor:
    """Of each channel of two tensors (1, channels, places, ...)."""
    zeros, ones = _standard(a)
    found: Tensor = torch.ops.aten.native_batch_norm_backward(
        a, b, None, zeros, ones, None, None, False, 0.0, [False, True, False]
    )[1]
    return found


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """A mean and a variance for each channel with which BatchNorm leaves everything as it is."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(x.shape[1], dtype=dtype), torch.ones(x.shape[1], dtype=dtype)
