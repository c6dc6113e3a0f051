"""What a network, and a block at a site, costs: counted, not computed from a formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sesurgeon.blocks import BlockConfig, build_block
from sesurgeon.graph import Site
from sesurgeon.models import fresh, isolated


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of one image's forward pass.

    Attributes:
        parameters: trainable or not, buffers not included.
        macs: multiply-adds of convolutions and linear layers; 1 MAC = 2 of ``torch.utils.flop_counter``'s FLOP.
    """

    parameters: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


def model_cost(model: nn.Module, inputs: tuple[Any, ...]) -> Cost:
    """The cost of ``model`` in eval mode, for one of the images in ``inputs``; the model is left as it was."""
    with isolated(model, training=False), FlopCounterMode(display=False) as counter:
        model(*fresh(inputs))
    images = next((argument.shape[0] for argument in inputs if isinstance(argument, torch.Tensor)), 1)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2 // images)


def block_cost(config: BlockConfig, site: Site) -> Cost:
    """The cost of one block at ``site``, for one image, counted on meta tensors."""
    with torch.device("meta"), torch.no_grad():
        block = build_block(config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
        with FlopCounterMode(display=False) as counter:
            block(torch.empty(1, *site.shape[1:]))
    parameters = sum(parameter.numel() for parameter in block.parameters())
    return Cost(parameters, counter.get_total_flops() // 2 * site.calls)
