"""Layers need not compute twice what they computed already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# These give the same bits for the same bits: they draw nothing, change nothing, and do not know in which mode they are.
_PURE = frozenset(
    [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear]
)
_LIMIT = 256 * 2**20  # bytes; what was longest ago is forgotten first


class LayerMemo:
    """Inputs and outputs of convolutions and linear layers: almost all the time of a forward pass is spent in them.

    Copies are kept, and copies given: a network may work in place.

    Args:
        run: ``nn.Module.__call__``.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._known: OrderedDict[nn.Module, list[tuple[Any, Tensor, Tensor]]] = OrderedDict()
        self._size = 0

    def __call__(self, module: nn.Module, x: Tensor) -> Any:
        """``module(x)``, for a module that :func:`is_pure`."""
        setting = _setting(x)
        for other, known, output in self._known.get(module, ()):
            if setting == other and torch.equal(x, known):
                return output.clone()
        copy = x.clone()
        output = self._run(module, x)
        self._known.setdefault(module, []).append((setting, copy, output.clone()))
        self._size += copy.nbytes + output.nbytes
        while self._size > _LIMIT:
            for _, known, forgotten in self._known.popitem(last=False)[1]:
                self._size -= known.nbytes + forgotten.nbytes
        return output

    def forget(self) -> None:
        """Give the memory back."""
        self._known.clear()
        self._size = 0


def is_pure(module: nn.Module) -> bool:
    """Whether ``module`` is a plain convolution or linear layer, to which nothing was hooked."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) in _PURE and not changed


def _setting(x: Tensor) -> tuple[Any, ...]:
    """What the result hangs on beside the values in ``x``."""
    device = x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return x.shape, x.stride(), x.dtype, x.device, autocast
