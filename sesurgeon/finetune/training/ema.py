"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from sesurgeon.finetune.training.phases import infinite_buffers


class Average(ModelEmaV3):  # type: ignore[misc]  # timm has no types
    """timm's EMA, with its warm-up of the decay.

    Whole numbers, extra state and buffers that contain infinity (attention masks) are copied instead of averaged: the
    difference of two infinities is not a number.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True)
        self.infinite = infinite_buffers(model)

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        own, new = self.module.state_dict(), model.state_dict()
        tensors = {name: kept for name, kept in own.items() if isinstance(kept, Tensor)}
        averaged = [name for name, kept in tensors.items() if kept.is_floating_point() and name not in self.infinite]
        torch._foreach_lerp_([own[name] for name in averaged], [new[name] for name in averaged], weight=1.0 - decay)
        for name in tensors.keys() - averaged:
            own[name].copy_(new[name])
        extra: dict[str, Any] = {name: copy.deepcopy(new[name]) for name in own.keys() - tensors}
        if extra:
            self.module.load_state_dict(extra, strict=False)

    @torch.no_grad()
    def set(self, model: nn.Module) -> None:
        self.apply_update_(model, decay=0.0)
