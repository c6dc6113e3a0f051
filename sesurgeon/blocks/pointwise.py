"""Convolutions of size 1 over a single place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks.eager import is_plain_training
from sesurgeon.blocks.layout import Convolution


def pointwise(layer: Convolution, x: Tensor) -> Tensor:
    """``layer(x)`` for a convolution of size 1: its very bits, with a faster backward pass at a single place.

    There a convolution is a product with a matrix, but torch's backward pass for it on a CPU takes ten times as long as
    the products. A layer that somebody replaced, or hooked on, is called as it is.

    Args:
        layer: a convolution of kernel size 1.
        x: (N, C, *places) or (C, *places).
    """
    one_place = x.dim() == layer.weight.dim() and x.shape[2:].numel() == 1
    if not (one_place and x.device.type == "cpu" and is_plain_training(x) and _is_itself(layer)):
        called: Tensor = layer(x)
        return called
    product: Tensor = _Pointwise.apply(x, layer.weight, layer.bias)
    return product


def _is_itself(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and not any(hooks)


class _Pointwise(torch.autograd.Function):
    """A convolution forward, products of matrices backward; these autograd can differentiate again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.dim() - 3]
        return convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, weight.shape[0])
        return (
            (rows @ weight.flatten(1).to(grad.dtype)).view_as(x).to(x.dtype) if of_x else None,
            (rows.t() @ x.reshape(-1, weight.shape[1]).to(grad.dtype)).view_as(weight).to(weight.dtype)
            if of_weight
            else None,
            rows.sum(0).to(weight.dtype) if of_bias else None,
        )
