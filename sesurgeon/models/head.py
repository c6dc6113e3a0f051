"""The classifier at the end of a network: where it is, and how wide it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from sesurgeon.blocks import Block
from sesurgeon.errors import UsageError
from sesurgeon.models.detection import detects
from sesurgeon.models.provenance import provenance_of
from sesurgeon.paths import is_within_any

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_Norm = nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm
_Conv = nn.modules.conv._ConvNd


def head_of(model: nn.Module, outputs: int | None = None) -> str:
    """Module path of the layer that gives the class scores.

    timm's models are asked; otherwise it is what the provenance says, or the last linear layer or convolution of
    size 1 in module order, not counting auxiliary heads, layers within the backbone (see :func:`_feeding`) and the
    blocks that we put in.

    Args:
        model: the network.
        outputs: how many scores it gives, where that is known: layers of another width are passed over, such as the
            last one of the backbone in a network that declares its head first.

    Raises:
        UsageError: there is none.
    """
    classifier, known = next(iter(_classifiers_of_timm(model)), model), provenance_of(model).head
    searched, within = set(classifier.modules()), _feeding(model) if classifier is model else set()
    fitting = [
        path
        for path, layer in pointwise_layers(model).items()
        if layer in searched and not _is_auxiliary(path) and outputs in (None, _outputs(layer))
    ]
    candidates = [path for path in fitting if path == known or path not in within]
    if outputs is not None:  # known from what the network gives
        candidates = candidates or fitting
    if not candidates or detects(model):
        wide = "" if outputs is None else f" that gives its {outputs} outputs"
        raise UsageError(
            f"{type(model).__name__} has no classifier: no linear layer or convolution of size 1 at its end{wide}.",
            hint="Give a network that classifies, or leave the number of classes as it is.",
        )
    return known if known in candidates else candidates[-1]


def heads_of(model: nn.Module, outputs: int | None = None) -> list[str]:
    """Module paths of all that gives class scores: the head, and auxiliary ones of the same width.

    timm's classifiers may have several layers (CAFormer's), a norm (LeViT's), or a twin that learns from a teacher
    (DeiT's): all of that is the head.

    Arguments and errors are those of :func:`head_of`.
    """
    head, classifiers = head_of(model, outputs), _classifiers_of_timm(model)
    whole = [path for path, module in model.named_modules() if path and module in classifiers]
    own = whole if is_within_any(head, whole) else [head]
    return [*own, *(path for path in auxiliary_heads(model, head) if not is_within_any(path, own))]


def heads_if_any(model: nn.Module) -> list[str]:
    """As :func:`heads_of`; nothing for a detector or a backbone, which have none."""
    try:
        return heads_of(model)
    except UsageError:
        return []


def score_layers(model: nn.Module) -> list[str]:
    """Module paths of the layers in the heads that are as wide as the number of class scores; none of a backbone."""
    heads = heads_if_any(model)
    within = {path: layer for path, layer in pointwise_layers(model).items() if is_within_any(path, heads)}
    return [path for path, layer in within.items() if _outputs(layer) == num_outputs(model)]


def num_outputs(model: nn.Module) -> int:
    """How many class scores ``model`` gives.

    Raises:
        UsageError: there is no classifier.
    """
    return _outputs(pointwise_layers(model)[head_of(model)])


def _classifiers_of_timm(model: nn.Module) -> list[nn.Module]:
    """What timm calls the classifier; several modules in distilled models. None of other libraries."""
    get_classifier = method_of_timm(model, "get_classifier")
    answer = () if get_classifier is None else get_classifier()
    several = isinstance(answer, (tuple, list, nn.ModuleList))
    return [module for module in (answer if several else [answer]) if isinstance(module, nn.Module)]


def method_of_timm(model: nn.Module, name: str, *arguments: Any) -> Callable[[], Any] | None:
    """A call of that method; None where there is none, or somebody else's, which takes other arguments."""
    method: Any = getattr(model, name, None)
    try:
        inspect.signature(method).bind(*arguments)
    except (TypeError, ValueError):
        return None
    return partial(method, *arguments)


def auxiliary_heads(model: nn.Module, head: str) -> list[str]:
    """Paths of the auxiliary layers that are as wide as the head."""
    layers = pointwise_layers(model)
    return [
        path
        for path, layer in layers.items()
        if path != head and _is_auxiliary(path) and _outputs(layer) == _outputs(layers[head])
    ]


def pointwise_layers(model: nn.Module) -> dict[str, Layer]:
    """Linear layers and convolutions of size 1 by path, outside of the blocks that we put in: one may be a head."""
    return {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, Layer) and path and _is_pointwise(layer) and not _is_in_block(model, path)
    }


def _feeding(model: nn.Module) -> set[str]:
    """Paths of convolutions within the backbone: a norm comes behind them, and the next layer takes what they give.

    These would be taken for the head of a network without one: downsampling convolutions, the last ones of residual
    blocks, the gates of SE. All goes by the order of the modules. A norm behind a layer alone does not tell: the head
    may be declared first, and heads of several scales one after another. Linear layers are none of them, as some
    classifiers end in a norm.
    """
    weighted = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, _Conv, _Norm)) and not _is_auxiliary(path) and not _is_in_block(model, path)
    ]
    last_norm = max((index for index, (_, module) in enumerate(weighted) if isinstance(module, _Norm)), default=0)
    return {
        path
        for index, (path, layer) in enumerate(weighted[:last_norm])
        if index > 0 and isinstance(layer, _Conv) and _takes(weighted[index + 1][1], layer.out_channels)
    }


def _takes(module: nn.Module, channels: int) -> bool:
    """Whether ``module`` is a norm or a convolution for as many channels."""
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1:] == (channels,)
    names = ("in_channels", "num_channels", "num_features")  # of convolutions, group norms, other norms
    return channels in (getattr(module, name, None) for name in names)


def _is_pointwise(layer: Layer) -> bool:
    return isinstance(layer, nn.Linear) or (set(layer.kernel_size) == {1} and layer.groups == 1)


def _is_in_block(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    owners = (model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts)))
    return any(isinstance(owner, Block) for owner in owners)


def _is_auxiliary(path: str) -> bool:
    return "aux" in path.lower()


def _outputs(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
