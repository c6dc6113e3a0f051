"""Does a layer do with a factor what its name promises? Tried out on noise, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from sesurgeon.graph import same
from sesurgeon.models import copy_of, fresh, isolated
from sesurgeon.surgery.folding.scale import Scale, multiply

_DECADES = 2  # noise from 0.01 to 100: enough to reach the 6 of a ReLU6, within the range of fp16


def input_passes(module: nn.Module, call: fx.Node, before: Scale, after: Scale, *, training: bool) -> bool:
    """Whether its first argument times ``before`` gives the output of ``module`` times ``after``.

    Args:
        module: without children.
        call: its node in a local graph, for the shapes of its arguments.
        before, after: factors of the same channels; powers of two are tried in their place.
        training: the mode in which it is tried.
    """
    arguments, keywords = _noise_for(call)
    scaled = (before.exact().times(arguments[0]), *arguments[1:])
    plain = _run(module, arguments, keywords, training)
    return same(_run(module, scaled, keywords, training), _times(plain, after.exact()))


def weights_pass(module: nn.Module, by: Mapping[str, Scale], call: fx.Node, scale: Scale, *, training: bool) -> bool:
    """Whether its tensors of these names times ``by`` give the output times ``scale``.

    A convolution that standardises its weight (timm's ``StdConv2d``) fails.
    """
    arguments, keywords = _noise_for(call)
    other = _multiplied(module, {name: factors.exact() for name, factors in by.items()})
    plain = _run(module, arguments, keywords, training)
    return same(_run(other, arguments, keywords, training), _times(plain, scale.exact()))


def reader_passes(module: nn.Module, by: Scale, call: fx.Node, scale: Scale, *, training: bool) -> bool:
    """Whether its weight times ``by`` gives what its first argument times ``scale`` gives: both powers of two."""
    arguments, keywords = _noise_for(call)
    scaled = (scale.times(arguments[0]), *arguments[1:])
    other = _multiplied(module, {"weight": by})
    return same(_run(other, arguments, keywords, training), _run(module, scaled, keywords, training))


def _multiplied(module: nn.Module, by: Mapping[str, Scale]) -> nn.Module:
    other = copy_of(module)
    multiply(other, by)
    return other


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


def _times(output: Any, scale: Scale) -> Any:
    return tree_map(lambda leaf: scale.times(leaf) if isinstance(leaf, Tensor) else leaf, output)
