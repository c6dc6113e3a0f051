"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from sesurgeon.finetune.training.phases import infinite_buffers


def _each_once(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors, each under one of its names: layers may share a weight, which must not be averaged twice.

    Shared weights are one object in a ``state`` that was taken with ``keep_vars=True``.
    """
    names = {id(kept): name for name, kept in state.items() if isinstance(kept, Tensor)}
    return {name: state[name].detach() for name in names.values()}


class Average(ModelEmaV3):  # type: ignore[misc]  # timm has no types
    """timm's EMA, with its warm-up of the decay.

    Whole numbers, extra state and buffers that contain infinity (attention masks) are copied instead of averaged: the
    difference of two infinities is not a number.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True)
        self.infinite = infinite_buffers(model)

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        own, new = self.module.state_dict(keep_vars=True), model.state_dict()
        tensors = _each_once(own)
        averaged = [name for name, kept in tensors.items() if kept.is_floating_point() and name not in self.infinite]
        torch._foreach_lerp_([tensors[name] for name in averaged], [new[name] for name in averaged], weight=1.0 - decay)
        for name in tensors.keys() - averaged:
            tensors[name].copy_(new[name])
        extra: dict[str, Any] = {
            name: copy.deepcopy(new[name]) for name, kept in own.items() if not isinstance(kept, Tensor)
        }
        if extra:
            self.module.load_state_dict(extra, strict=False)

    @torch.no_grad()
    def set(self, model: nn.Module) -> None:
        self.apply_update_(model, decay=0.0)
