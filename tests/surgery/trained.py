"""Networks whose blocks are not the identity any more, and the comparison of two of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon import add_se
from sesurgeon.surgery import blocks_of
from tests.networks import trained_like

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def augmented(net: nn.Module, images: Any = IMAGES, **choices: Any) -> nn.Module:
    """``net`` with blocks as training leaves them: no weight of theirs is zero any more."""
    model = add_se(trained_like(net), images, **choices)
    generator = torch.Generator().manual_seed(0)
    for block in blocks_of(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def outputs(model: nn.Module, images: Tensor, *, training: bool) -> Tensor:
    torch.manual_seed(1)
    result: Tensor = copy.deepcopy(model).train(training)(images)
    return result


def assert_same(first: nn.Module, second: nn.Module, images: Tensor = IMAGES) -> None:
    """On other images than those of the plan, which the proof saw already."""
    others = images.flip(0) * 1.7
    for training in (False, True):
        assert torch.equal(outputs(first, others, training=training), outputs(second, others, training=training))
