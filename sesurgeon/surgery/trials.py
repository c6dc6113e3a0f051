"""Does a layer do with a factor what its name promises? Tried out on noise, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from sesurgeon.graph import same
from sesurgeon.models import fresh, isolated

_DECADES = 2  # noise from 0.01 to 100: enough to reach the 6 of a ReLU6, within the range of fp16


def input_passes(module: nn.Module, call: fx.Node, factor: float, *, training: bool) -> bool:
    """Whether ``factor`` times its first argument gives ``factor`` times the output of ``module``.

    Args:
        module: without children.
        call: its node in a local graph, for the shapes of its arguments.
        factor: a power of two.
        training: the mode in which it is tried.
    """
    arguments, keywords = _noise_for(call)
    scaled = (arguments[0] * factor, *arguments[1:])
    plain = _run(module, arguments, keywords, training)
    return same(_run(module, scaled, keywords, training), _times(plain, factor))


def weights_pass(module: nn.Module, names: Sequence[str], call: fx.Node, factor: float, *, training: bool) -> bool:
    """The same for ``factor`` times its tensors of these ``names``.

    A convolution that standardises its weight (timm's ``StdConv2d``) fails.
    """
    arguments, keywords = _noise_for(call)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name in names:
            getattr(other, name).mul_(factor)
    plain = _run(module, arguments, keywords, training)
    return same(_run(other, arguments, keywords, training), _times(plain, factor))


def _noise_for(call: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def noise(leaf: Any) -> Any:
        value = leaf.meta["value"] if isinstance(leaf, fx.Node) else leaf
        if not isinstance(value, Tensor):
            return value
        size = 10 ** ((torch.rand(value.shape, generator=generator) * 2 - 1) * _DECADES)
        return (torch.randn(value.shape, generator=generator) * size).to(value.device, value.dtype)

    return tree_map(noise, call.args), tree_map(noise, dict(call.kwargs))


def _run(module: nn.Module, arguments: Sequence[Any], keywords: dict[str, Any], training: bool) -> Any:
    with isolated(module, training=training):
        return module(*fresh(arguments), **fresh(keywords))


def _times(output: Any, factor: float) -> Any:
    return tree_map(lambda leaf: leaf * factor if isinstance(leaf, Tensor) else leaf, output)
