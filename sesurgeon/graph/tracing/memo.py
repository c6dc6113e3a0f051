"""Layers that get the same input again do not compute again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.modules import is_itself

# These give the same bits for the same bits: they draw nothing, change nothing, and do the same in both modes.
_PURE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_LIMIT = 64 * 2**20  # bytes; once they are used up no more is kept: what came first is asked for again first


@dataclass(frozen=True)
class _Kept:
    """A tensor, and how often it had been written into when it was kept. A copy would take as long as many a layer."""

    tensor: Tensor
    version: int

    def holds(self) -> bool:
        """Whether it is still what it was."""
        return self.tensor._version == self.version


class LayerMemo:
    """Inputs and outputs of convolutions and linear layers, in which a forward pass spends almost all of its time.

    A tensor that the network writes into later is no longer used. Callers get copies.

    Args:
        run: ``nn.Module.__call__``.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._known: dict[nn.Module, list[tuple[Any, _Kept, _Kept]]] = {}
        self._size = 0

    def __call__(self, module: nn.Module, x: Tensor) -> Any:
        """``module(x)``, for a module that :func:`is_pure`."""
        if x.is_inference():  # which does not count what is written into it
            return self._run(module, x)
        setting = _setting(x)
        for other, known, given in self._known.get(module, ()):
            if setting == other and known.holds() and given.holds() and torch.equal(x, known.tensor):
                return given.tensor.clone()
        before = x._version
        output = self._run(module, x)
        if not output.is_inference():
            self._keep(module, setting, _Kept(x, before), _Kept(output, output._version))
        return output

    def _keep(self, module: nn.Module, setting: Any, x: _Kept, output: _Kept) -> None:
        size = x.tensor.nbytes + output.tensor.nbytes
        if self._size + size <= _LIMIT:
            self._known.setdefault(module, []).append((setting, x, output))
            self._size += size

    def forget(self) -> None:
        """Free the memory."""
        self._known.clear()
        self._size = 0


def is_pure(module: nn.Module) -> bool:
    """Whether ``module`` is a plain convolution or linear layer without hooks."""
    return is_itself(module, *_PURE)


def _setting(x: Tensor) -> tuple[Any, ...]:
    """What the result depends on beside the values in ``x``."""
    device = x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return x.shape, x.stride(), x.dtype, x.device, autocast
