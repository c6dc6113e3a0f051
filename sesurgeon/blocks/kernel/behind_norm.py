"""A block right behind a BatchNorm, the two differentiated as one.

A block by itself keeps its input for the gradient of its gate. If a BatchNorm gave that input, nothing else needs it:
the norm keeps its own input, and the block can go back to that one. So no tensor of that size is kept for the block,
and the norm's output is scaled in place. Backward, the sums over the places that the gate's gradient needs are those
that the norm's needs too, and the gradient of the norm's input is made of them in one step instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.blocks.block import Squeezing
from sesurgeon.blocks.kernel.eager import is_batch_of_gradients, is_plain_training, keeps_tensors_as_they_are
from sesurgeon.blocks.kernel.excitation import ByAutograd, Excitation, gradients
from sesurgeon.blocks.kernel.norms import norm_giving
from sesurgeon.blocks.kernel.parts import are_as_made, own_parameters, require_own
from sesurgeon.blocks.kernel.passes import scaled_and_shifted, sums_about
from sesurgeon.blocks.kernel.scaling import plainly_scaled
from sesurgeon.blocks.layout import BatchNorm, Layout
from sesurgeon.modules import is_itself


def scaled_result(module: nn.Module, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """``block(module(*args, **kwargs))``, bit for bit, where nothing else reads the module's result.

    The two are differentiated as one where a BatchNorm gives the result (:func:`norm_giving`), the block scales it by
    what its mean says, and both compute on a CPU, in fp32 or fp64, as they were made: no hook observes them, and no
    other tensors stand in for their parameters. Everywhere else one is called after the other.
    """
    y = module(*args, **kwargs)
    norm = norm_giving(module)
    if norm is None or not (_scales_by_mean(block) and _is_result_of(norm, y, block.layout)):
        return block(y)
    affine, parameters = own_parameters(norm), own_parameters(block)
    given: Any = y.grad_fn  # what autograd keeps for the norm: its input, and the statistics it normalised with
    of_batch = given._saved_training
    statistics = (given._saved_result1, given._saved_result2) if of_batch else (norm.running_mean, norm.running_var)
    tensors = (given._saved_input, *affine, *statistics, *parameters)
    if not (len(affine) == 2 and parameters and all(one is not None and one.dtype == y.dtype for one in tensors)):
        return block(y)
    excitation = block.by_hand(y, parameters) or ByAutograd(block.factors)
    how = (of_batch, given._saved_eps)
    return _ScaleNormed.apply(y.detach(), how, block, excitation, *tensors)


def _scales_by_mean(block: nn.Module) -> TypeGuard[Squeezing]:
    usual = isinstance(block, Squeezing) and type(block).forward is Squeezing.forward and block.squeeze == "avg"
    return usual and is_itself(block, type(block)) and are_as_made(block.children())


def _is_result_of(norm: BatchNorm, y: Tensor, layout: Layout) -> bool:
    """Whether torch's own loops for a CPU gave it, and autograd keeps what they need."""
    if not (is_plain_training(y) and keeps_tensors_as_they_are() and y.dtype in (torch.float32, torch.float64)):
        return False
    images = y.dim() == layout.spatial_dims + 2 and layout.channel_dim == 1 and y.numel() > 0
    by_loops = y.grad_fn is not None and y.grad_fn.name() == "NativeBatchNormBackward0"
    return images and by_loops and y.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


@dataclass(frozen=True)
class _Norm:
    """What a BatchNorm did.

    Attributes:
        of_batch: it normalised with the mean and the variance of the batch; otherwise with the running ones.
        eps: added to the variance.
        weight, bias: one for each channel, as the others.
        mean: that was subtracted.
        spread: of the batch the inverse of the standard deviation, otherwise the variance.
    """

    of_batch: bool
    eps: float
    weight: Tensor
    bias: Tensor
    mean: Tensor
    spread: Tensor

    def of(self, x: Tensor) -> Tensor:
        """It done again, for autograd to see."""
        mean, variance = (None, None) if self.of_batch else (self.mean, self.spread)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, self.of_batch, eps=self.eps)

    def at_one_place(self, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, mean and the inverse of the standard deviation as (C, 1, ...)."""
        inverse = self.spread if self.of_batch else (self.spread + self.eps).rsqrt()
        weight, bias, mean, inverse = map(layout.at_one_place, (self.weight, self.bias, self.mean, inverse))
        return weight, bias, mean, inverse


class _ScaleNormed(torch.autograd.Function):
    """From the input of a BatchNorm to its output ``y`` times the factors, which is written over ``y``."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, how: tuple[bool, float], block: Squeezing, excitation: Excitation, x: Tensor,
        weight: Tensor, bias: Tensor, mean: Tensor, spread: Tensor, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        scale, kept = excitation.forth(block.layout.squeezed(y), parameters)
        ctx.save_for_backward(x, weight, bias, mean, spread, *parameters, *kept)
        (ctx.of_batch, ctx.eps), ctx.block, ctx.excitation = how, block, excitation
        ctx.mark_dirty(y)
        return y.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, spread, *saved = ctx.saved_tensors
        block: Squeezing = ctx.block
        _, _, _, _, *of_norm, _, _ = ctx.needs_input_grad[:9]
        of_block = ctx.needs_input_grad[9:]
        parameters, kept = saved[: len(of_block)], saved[len(of_block) :]
        norm, needed = _Norm(ctx.of_batch, ctx.eps, weight, bias, mean, spread), (*of_norm, *of_block)
        again = torch.is_grad_enabled()  # it will be differentiated once more
        if again or is_batch_of_gradients(grad):
            require_own(parameters, block)
            with torch.enable_grad():  # as in scaling.py
                view = x.view_as(x)
                scaled = plainly_scaled(norm.of(view), block)
            found = gradients(scaled, (view, weight, bias, *parameters), needed, grad, create_graph=again)
        else:
            found = _by_hand(norm, block.layout, ctx.excitation, x, grad, kept, parameters, needed)
        return None, None, None, None, *found[:3], None, None, *found[3:]


def _by_hand(
    norm: _Norm, layout: Layout, excitation: Excitation, x: Tensor, grad: Tensor, kept: Sequence[Tensor],
    parameters: Sequence[Tensor], needed: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of x, of the norm's weight and bias, and of the block's parameters, where they are needed.

    With n the normalised x, y = weight * n + bias, and m the mean of y over its P places, the scaled output is
    y * factors(m). So the gradient of y is grad * factors + share, where share is the gradient of m divided by P, and
    its sum and that of its product with n, which the norm needs, follow from those of grad and grad * n by image.
    """
    weight, bias, mean, inverse = norm.at_one_place(layout)
    slope, places = weight * inverse, x.shape[layout.first + 1 :].numel()
    products, sums = sums_about(mean, x, grad, layout)  # of x - mean and grad; of grad
    of_factors = torch.addcmul(bias * sums, slope, products)
    returned = excitation.back(kept, parameters, of_factors, (True, *needed[3:]))
    factors = returned.factors
    of_mean = torch.zeros_like(factors) if returned.of_mean is None else returned.of_mean
    batch = (0, *layout.places)
    of_bias = torch.addcmul(of_mean, factors, sums).sum(batch, keepdim=True)
    means = of_mean * (layout.squeezed(x) - mean)
    of_weight = torch.addcmul(means, factors, products).sum(batch, keepdim=True) * inverse
    of_x, gain, shift = None, slope * factors, slope / places * of_mean
    if needed[0] and norm.of_batch:
        fall = of_weight * inverse * slope / (-len(x) * places)
        shift += fall * -mean - slope * of_bias / (len(x) * places)
        of_x = scaled_and_shifted(x, fall.expand_as(factors), shift, layout).addcmul_(grad, gain)
    elif needed[0]:
        of_x = scaled_and_shifted(grad, gain, shift, layout)
    flat = [of_weight.flatten() if needed[1] else None, of_bias.flatten() if needed[2] else None]
    return [of_x, *flat, *returned.of_parameters]
