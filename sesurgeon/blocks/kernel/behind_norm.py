"""A block right behind a BatchNorm, the two differentiated as one.

A block by itself keeps its input for the gradient of its gate. If a BatchNorm gave that input and nothing else reads
it, it need not be kept: the norm keeps its own input, and the block can go back to that one. So no tensor of that size
is kept for the block, and the norm's output is scaled in place. Backward, the sums over the places that the gate's
gradient needs are those that the norm's needs too, and the gradient of the norm's input is made of them in one step
instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.blocks.block import Squeezing
from sesurgeon.blocks.kernel.eager import (
    calls_are_seen,
    is_batch_of_gradients,
    is_plain,
    keeps_tensors_as_they_are,
    results_are_seen,
)
from sesurgeon.blocks.kernel.excitation import ByAutograd, Excitation, gradients
from sesurgeon.blocks.kernel.norms import norm_giving
from sesurgeon.blocks.kernel.parts import are_as_made, own_parameters, require_own
from sesurgeon.blocks.kernel.passes import scaled_and_shifted, sums_about
from sesurgeon.blocks.kernel.scaling import plainly_scaled
from sesurgeon.blocks.layout import BatchNorm, Layout
from sesurgeon.modules import is_itself


def can_be_joined(module: nn.Module, block: nn.Module) -> bool:
    """Whether :func:`scaled_result` may do more than call the two one after the other, as they are now."""
    return norm_giving(module) is not None and _scales_by_mean(block)


def scaled_result(module: nn.Module, block: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """``block(module(*args, **kwargs))``, bit for bit, where nothing else reads the module's result.

    If a BatchNorm gives that result (:func:`norm_giving`) and the block scales it by what its mean says, both as they
    were made and unobserved, it is scaled in place, and on a CPU, in fp32 and fp64, the two are differentiated as one.
    Otherwise one is called after the other.
    """
    y = module(*args, **kwargs)
    if not is_plain(y) or calls_are_seen():
        return block(y)
    norm = norm_giving(module)
    if norm is None or not _scales_by_mean(block):
        return block(y)
    if not torch.is_grad_enabled():
        return _scaled(y, block.excitation(y))
    joined = _joined(norm, block, y)
    return block(y) if joined is None else joined


def _scales_by_mean(block: nn.Module) -> TypeGuard[Squeezing]:
    usual = isinstance(block, Squeezing) and type(block).forward is Squeezing.forward and block.squeeze == "avg"
    return usual and is_itself(block, type(block)) and are_as_made(block.children())


def _scaled(y: Tensor, factors: Tensor) -> Tensor:
    """The product, written over ``y``, if that is of its type and nobody may have kept ``y``."""
    return y.mul_(factors) if torch.result_type(y, factors) == y.dtype and not results_are_seen() else y * factors


def _joined(norm: BatchNorm, block: Squeezing, y: Tensor) -> Tensor | None:
    """The norm's result ``y`` scaled; None where the two cannot be differentiated as one."""
    given: Any = y.grad_fn  # what autograd keeps for the norm: its input, and the statistics that it normalised with
    by_loops = y.device.type == "cpu" and given is not None and given.name() == "NativeBatchNormBackward0"
    images = y.dim() == block.layout.spatial_dims + 2 and block.layout.channel_dim == 1 and y.numel() > 0
    plain = y.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if not (by_loops and images and plain and keeps_tensors_as_they_are()):
        return None
    weight, bias, parameters = norm.weight, norm.bias, own_parameters(block)
    by_another = given._saved_weight is not weight
    if by_another or bias is None or not (own_parameters(norm) and parameters):
        return None
    if of_batch := given._saved_training:
        mean, spread = given._saved_result1, given._saved_result2
    else:  # copies: a later batch changes the running ones, unseen by autograd
        mean, spread = (one.clone() for one in (norm.running_mean, norm.running_var) if one is not None)
    x = given._saved_input
    if any(one.dtype != y.dtype for one in (x, weight, bias, mean, spread, *parameters)):
        return None
    excitation = block.by_hand(y, parameters) or ByAutograd(block.factors)
    call = _Call(block, excitation, of_batch, given._saved_eps, mean, spread)
    joined: Tensor = _ScaleNormed.apply(call, y.detach(), x, weight, bias, *parameters)
    return joined


@dataclass(frozen=True)
class _Call:
    """What happened besides the tensors that have gradients.

    Attributes:
        block, excitation: by which the norm's result is scaled.
        of_batch: the norm normalised with the mean and the variance of the batch; otherwise with the running ones.
        eps: added to the variance.
        mean: of each channel, (C,).
        spread: (C,); of the batch the inverse of the standard deviation, otherwise the variance.
    """

    block: Squeezing
    excitation: Excitation
    of_batch: bool
    eps: float
    mean: Tensor
    spread: Tensor

    def inverse(self) -> Tensor:
        """Of the standard deviation."""
        return self.spread if self.of_batch else (self.spread + self.eps).rsqrt()

    def again(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The scaled result by plain operations, for autograd to see."""
        mean, variance = (None, None) if self.of_batch else (self.mean, self.spread)
        return plainly_scaled(F.batch_norm(x, mean, variance, weight, bias, self.of_batch, eps=self.eps), self.block)


class _ScaleNormed(torch.autograd.Function):
    """From the input of a BatchNorm to its result ``y`` times the factors, which is written over ``y``."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> Tensor:
        factors, kept = call.excitation.forth(call.block.layout.squeezed(y), parameters)
        # BatchNorm keeps its weight too, but no bias: that may change before the backward pass
        ctx.save_for_backward(x, weight, bias.detach().clone(), *parameters, *kept)
        ctx.call, ctx.bias = call, bias
        scaled = _scaled(y, factors)
        if scaled is y:
            ctx.mark_dirty(y)
        return scaled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        needed = ctx.needs_input_grad[2:]
        x, weight, bias, *saved = ctx.saved_tensors
        parameters, kept = saved[: len(needed) - 3], saved[len(needed) - 3 :]
        again = torch.is_grad_enabled()  # it will be differentiated once more
        if not again and not is_batch_of_gradients(grad):
            return None, None, *_by_hand(call, x, weight, bias, kept, parameters, needed, grad)
        require_own(parameters, call.block)
        if not torch.allclose(ctx.bias, bias, rtol=0, atol=0, equal_nan=True):
            raise RuntimeError("The bias of a BatchNorm has changed since: gradients of gradients cannot be taken.")
        with torch.enable_grad():  # on other views: autograd calls the hooks on these tensors already
            views = [one.view_as(one) for one in (x, weight, ctx.bias)]
            scaled = call.again(*views)
        return None, None, *gradients(scaled, (*views, *parameters), needed, grad, create_graph=again)


def _by_hand(
    call: _Call, x: Tensor, weight: Tensor, bias: Tensor, kept: Sequence[Tensor], parameters: Sequence[Tensor],
    needed: Sequence[bool], grad: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of x, weight, bias and the block's parameters, where they are ``needed``.

    With n = (x - mean) * inverse, y = weight * n + bias, and m the mean of y over its P places, the scaled result is
    y * factors(m). So the gradient of y is by_y = grad * factors + by_m / P. Its sum and that of by_y * n, which are
    the gradients of bias and weight, follow from the sums of grad, of grad * n and of n over the places of each image.
    The gradient of x is by_y * slope, with slope = weight * inverse, if the norm used its running statistics; otherwise
    (by_y - mean of by_y - n * mean of by_y * n) * slope, which is gain * grad + fall * x + shift.
    """
    layout: Layout = call.block.layout
    weight, bias, mean, inverse = map(layout.at_one_place, (weight, bias, call.mean, call.inverse()))
    slope, places = weight * inverse, x.shape[layout.first + 1 :].numel()
    products, sums = sums_about(mean, x, grad, layout)  # of (x - mean) * grad, and of grad
    by_factors = torch.addcmul(bias * sums, slope, products)
    returned = call.excitation.back(kept, parameters, by_factors, (True, *needed[3:]))
    factors = returned.factors
    by_m = torch.zeros_like(factors) if returned.of_mean is None else returned.of_mean
    batch = (0, *layout.places)
    by_bias = torch.addcmul(by_m, factors, sums).sum(batch, keepdim=True)
    by_m_and_n = by_m * (layout.squeezed(x) - mean)
    by_weight = torch.addcmul(by_m_and_n, factors, products).sum(batch, keepdim=True) * inverse
    by_x, gain, shift = None, slope * factors, slope / places * by_m
    if needed[0] and call.of_batch:
        size = len(x) * places
        fall = slope * inverse * by_weight / -size
        shift = shift - slope * by_bias / size - fall * mean
        by_x = scaled_and_shifted(x, fall.expand_as(factors), shift, layout).addcmul_(grad, gain)
    elif needed[0]:
        by_x = scaled_and_shifted(grad, gain, shift, layout)
    flat = [by_weight.flatten() if needed[1] else None, by_bias.flatten() if needed[2] else None]
    return [by_x, *flat, *returned.of_parameters]
