"""A network beside itself, in one memory."""

from __future__ import annotations

import copy

from torch import nn


def view_of(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, but for its parameters and buffers: these are the very same."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
