"""Scaling by what the mean says, in as few passes over the tensor as there can be.

Autograd's own way keeps a product of the tensor's size for a moment, and reads and writes the tensor eleven times
forward and backward. Here it is three forward (mean; scale and write) and four backward (the gate's gradient is a dot
product, the tensor's a multiplication with an addition), and of the tensor's size only the tensor itself is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sesurgeon.blocks.kernel.eager import autocast_now, is_batch_of_gradients, is_plain_training
from sesurgeon.blocks.kernel.excitation import ByAutograd, Excitation, Returned, gradients
from sesurgeon.blocks.kernel.pages import fresh_like
from sesurgeon.blocks.kernel.parts import are_as_made, own_parameters, require_own
from sesurgeon.blocks.kernel.passes import scaled_and_shifted, sum_of_products
from sesurgeon.blocks.layout import Layout

if TYPE_CHECKING:  # whose module imports this one
    from sesurgeon.blocks.block import Squeezing

LARGE = 2**28  # bytes of a tensor on a GPU from which the fast way back pays: benchmarks/gpu.md


def scaled_by_mean(x: Tensor, block: Squeezing) -> Tensor:
    """``x * factors(mean of x over its places)``, differentiated in few passes.

    The bits are those of the plain operations where gradients are wanted, too; :func:`pointwise` layers may give others
    where they are not.
    The plain operations run wherever

    - it is not :func:`is_plain_training`, or the block's parts are not :func:`are_as_made`;
    - its parameters are not its :func:`own_parameters`.

    Args:
        x: of the block's layout, with or without a batch.
        block: gives the factors.
    """
    parameters = own_parameters(block)
    if not (parameters and is_plain_training(x) and _pays(x) and are_as_made(block.children())):
        return plainly_scaled(x, block)
    excitation = block.by_hand(x, parameters) or ByAutograd(block.factors)
    scaled: Tensor = _ScaleByMean.apply(x, block, excitation, *parameters)
    return scaled


def _pays(x: Tensor) -> bool:
    """Not for smaller tensors on a GPU: launching operations from Python takes longer than the passes it saves."""
    return x.numel() > 0 and (x.device.type == "cpu" or x.numel() * x.element_size() >= LARGE)


def plainly_scaled(x: Tensor, block: Squeezing) -> Tensor:
    """The same by plain operations."""
    return x * block.layout.restored(block.factors(block.layout.squeezed(x)))


class _ScaleByMean(torch.autograd.Function):
    """Keeps means and hidden units by ``save_for_backward``: autograd frees them when this block's backward is done.

    As attributes of ``ctx`` those of all blocks would stay in memory until the whole network's backward is over.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Squeezing, excitation: Excitation, *parameters: Tensor) -> Tensor:
        scale, kept = excitation.forth(block.layout.squeezed(x), parameters)
        ctx.save_for_backward(x, *parameters, *kept)
        ctx.block, ctx.excitation, ctx.autocast = block, excitation, autocast_now(x.device.type)
        return torch.mul(x, block.layout.restored(scale), out=fresh_like(x, torch.result_type(x, scale)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        block: Squeezing = ctx.block
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        parameters, kept = saved[: len(needed) - 1], saved[len(needed) - 1 :]
        again = torch.is_grad_enabled()  # it will be differentiated once more
        if again or is_batch_of_gradients(grad):
            require_own(parameters, block)
            # in a graph of its own, as going back frees a graph and this function may be called again; on another
            # view of x, as autograd calls the hooks on x already
            with torch.enable_grad(), ctx.autocast():
                view = x.view_as(x)
                y = plainly_scaled(view, block)
            of_x, *of_parameters = gradients(y, (view, *parameters), needed, grad, create_graph=again)
            return of_x, None, None, *of_parameters
        of_factors = block.layout.channels_first(sum_of_products(grad, x.to(grad.dtype), block.layout))
        found = ctx.excitation.back(kept, parameters, of_factors, needed)
        of_x = _of_input(grad, found, block.layout).to(x.dtype) if needed[0] else None
        return of_x, None, None, *found.of_parameters


def _of_input(grad: Tensor, found: Returned, layout: Layout) -> Tensor:
    factors = layout.restored(found.factors).to(grad.dtype)
    if found.of_mean is None:  # the factors do not depend on it
        return grad * factors
    share = layout.restored(found.of_mean) / (grad.numel() // found.of_mean.numel())
    return scaled_and_shifted(grad, factors, share.to(grad.dtype), layout)
