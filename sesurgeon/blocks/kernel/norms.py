"""Which BatchNorm gives a module's result."""

from __future__ import annotations

import sys

from torch import nn

from sesurgeon.blocks.layout import BATCH_NORMS, BatchNorm
from sesurgeon.modules import is_itself

_FORWARD = nn.BatchNorm2d.forward  # as torch has it: it may be replaced on the class, to record what norms give
_SEQUENTIAL = ("forward", "__call__", "__iter__", "__getitem__", "__len__")


def norm_giving(module: nn.Module) -> BatchNorm | None:
    """The BatchNorm whose result is the module's, if nothing can have seen it on its way.

    That may be the module itself or, through any number of them, the last child of an ``nn.Sequential`` or of timm's
    convolution with a norm. timm's norm with an activation counts where it has none. timm is not imported for this.
    """
    while is_itself(module, type(module)):
        if (type(module) in BATCH_NORMS and type(module).forward is _FORWARD) or _is_bare(module):
            assert isinstance(module, BATCH_NORMS)
            return module
        last = _last(module)
        if last is None:
            return None
        module = last
    return None


def _is_bare(module: nn.Module) -> bool:
    named = _is_timms(module, "timm.layers.norm_act", "BatchNormAct2d")
    return named and all(is_itself(child, nn.Identity) for child in module.children())


def _last(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Sequential):
        usual = all(getattr(type(module), name) is getattr(nn.Sequential, name) for name in _SEQUENTIAL)
        return module[-1] if usual and len(module) > 0 else None
    if _is_timms(module, "timm.layers.conv_bn_act", "ConvNormAct") and getattr(module, "aa", None) is None:
        return module.get_submodule("bn")
    return None


def _is_timms(module: nn.Module, file: str, name: str) -> bool:
    return type(module) is getattr(sys.modules.get(file), name, None)
