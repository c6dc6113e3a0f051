"""The passes over a tensor in the backward pass.

On a CPU they are BatchNorm's loops: a dot product, and a multiplication with an addition, row by row at the speed of
the memory. torch has no others as fast: bmm takes three times as long for rows, addcmul with factors per row twice.
These loops have a cost for each row or image, so where places are few other operations are faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sesurgeon.blocks.kernel.eager import is_transformed
from sesurgeon.blocks.kernel.pages import fresh_like
from sesurgeon.blocks.layout import Layout

_FEW = 100  # places: 7 x 7 are, 14 x 14 are not
_SHARE = 2**22  # bytes of a product at a time, which mostly stay in the cache


def sum_of_products(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``(a * b)`` summed over the places, which keep size 1; in their dtype or in fp32.

    On a CPU no product of the tensor's size is made, unless it is small or the two differ in memory format.
    """
    if (found := _sums_by_loops(a, b, None, layout)) is not None:
        return found[0]
    return _by_shares(lambda a, b: (a * b).sum(layout.places, keepdim=True), a, b, layout)


def sums_about(mean: Tensor, a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """``((a - mean) * b)`` and ``b``, both summed over the places, which keep size 1.

    As :func:`sum_of_products`, in one pass on a CPU, for the mean of each channel, (1, C, 1, ...).
    """
    if (found := _sums_by_loops(b, a, mean.flatten(), layout)) is not None:
        return found
    products = _by_shares(lambda a, b: ((a - mean) * b).sum(layout.places, keepdim=True), a, b, layout)
    return products, b.sum(layout.places, keepdim=True)


def scaled_and_shifted(a: Tensor, scale: Tensor, shift: Tensor, layout: Layout) -> Tensor:
    """``a * scale + shift`` for factors of each image and channel, in one pass where places are many."""
    if not _is_cpu_memory(a):
        return torch.addcmul(shift, a, scale)
    found = fresh_like(a, a.dtype)
    if (rows := _rows(a, found, layout)) is None:
        return torch.addcmul(shift, a, scale, out=found)
    if rows[0].shape[2] < _FEW:
        return torch.mul(a, scale, out=found).add_(shift)
    zeros, ones = _standard(rows[0])
    unused = zeros[:0]
    torch.ops.aten.native_batch_norm.out(
        rows[0], scale.flatten().to(ones), shift.flatten().to(ones), zeros, ones, False, 0.0, 0.0,
        out=rows[1], save_mean=unused, save_invstd=unused.clone(),
    )  # fmt: skip
    return found


def _sums_by_loops(a: Tensor, b: Tensor, mean: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """``a * (b - mean)`` and ``a``, summed over the places by a CPU's loops; None where these are no faster."""
    if not _is_cpu_memory(a):
        return None
    if (rows := _rows(a, b, layout)) is not None:
        found = _sums(*rows, None if mean is None else mean.expand(len(a), -1).flatten())
    elif (images := _images_of_channels_last(a, b, layout)) is not None and images[0].shape[3] >= _FEW:
        found = _sums_by_image(*images, mean)
    else:
        return None
    shape = [1 if index - a.dim() in layout.places else size for index, size in enumerate(a.shape)]
    return found[0].view(shape), found[1].view(shape)


def _is_cpu_memory(x: Tensor) -> bool:
    """Whether a CPU's loops may read it and write to one like it."""
    return x.device.type == "cpu" and x.numel() > 0 and not is_transformed()


def _rows(a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Two tensors as (1, N * C, places); None where places are not next to each other in memory."""
    first, second = layout.channels_first(a), layout.channels_first(b)
    if not (first.is_contiguous() and second.is_contiguous()):
        return None
    return first.flatten(0, layout.first).flatten(1)[None], second.flatten(0, layout.first).flatten(1)[None]


def _images_of_channels_last(a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """Two tensors as (N, 1, C, places, 1); None where channels are not next to each other in memory."""
    first, second = (layout.channels_first(one).movedim(layout.first, -1) for one in (a, b))
    if not (a.dim() > layout.spatial_dims + 1 and first.is_contiguous() and second.is_contiguous()):
        return None
    return tuple(one.flatten(1, -2).movedim(-1, 1)[:, None, :, :, None] for one in (first, second))  # type: ignore


def _by_shares(sums: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """``sums(a, b)``, by some images at a time if they are large."""
    batched, large = a.dim() > layout.spatial_dims + 1, a.numel() * a.element_size() > _SHARE
    if not (_is_cpu_memory(a) and batched and large):
        return sums(a, b)
    images = max(1, _SHARE // (a[0].numel() * a.element_size()))
    return torch.cat([sums(x, y) for x, y in zip(torch.split(a, images), torch.split(b, images), strict=True)])


def _sums_by_image(a: Tensor, b: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """``a * (b - mean)`` and ``a`` summed for each channel of images (N, 1, channels, places, 1)."""
    products, sums = zip(*(_sums(x, y, mean) for x, y in zip(a, b, strict=True)), strict=True)
    return torch.stack(products), torch.stack(sums)


def _sums(a: Tensor, b: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """``a * (b - mean)`` and ``a`` summed for each channel of two tensors (1, channels, places, ...)."""
    zeros, ones = _standard(a)
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        a, b, None, zeros if mean is None else mean, ones, None, None, False, 0.0, [False, True, True]
    )
    return products, sums


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """A mean and a variance for each channel with which BatchNorm leaves everything as it is."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(x.shape[1], dtype=dtype), torch.ones(x.shape[1], dtype=dtype)
