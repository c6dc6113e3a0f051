"""Convolutions of size 1 over a single place."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sesurgeon.blocks.kernel.eager import is_plain_training
from sesurgeon.blocks.layout import CONVOLUTIONS, Convolution
from sesurgeon.modules import is_itself


def pointwise(layer: Convolution, x: Tensor) -> Tensor:
    """``layer(x)`` for a convolution of size 1; in train mode, at a single place, as a product of matrices.

    The two are equal up to rounding, and exactly where the weights are zero; on a CPU torch takes three times as long
    for such a convolution as for the product, forward and backward. Everywhere else, and where the layer was replaced
    or has hooks, it is called as it is.

    Args:
        layer: a convolution of kernel size 1.
        x: (N, C, *places) or (C, *places).
    """
    usual = layer.training and is_plain_training(x) and is_itself(layer, *CONVOLUTIONS)
    if not (usual and x.device.type == "cpu" and x.dim() == layer.weight.dim() and x.shape[2:].numel() == 1):
        called: Tensor = layer(x)
        return called
    product = F.linear(x.flatten(1), layer.weight.flatten(1), layer.bias)
    return product.reshape(*product.shape, *x.shape[2:])
