"""The classifier at the end of a network: where it is, how wide it is, how it is replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from sesurgeon.blocks import Block
from sesurgeon.errors import UsageError
from sesurgeon.models.detection import detects
from sesurgeon.models.provenance import attach_provenance, provenance_of
from sesurgeon.paths import is_within_any
from sesurgeon.scalars import as_python, is_whole

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
        for path, layer in _layers(model).items()
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
    return [*own, *(path for path in _auxiliary_heads(model, head) if not is_within_any(path, own))]


def heads_if_any(model: nn.Module) -> list[str]:
    """As :func:`heads_of`; nothing for a detector or a backbone, which have none."""
    try:
        return heads_of(model)
    except UsageError:
        return []


def score_layers(model: nn.Module) -> list[str]:
    """Module paths of the layers in the heads that are as wide as the number of class scores; none of a backbone."""
    heads = heads_if_any(model)
    within = {path: layer for path, layer in _layers(model).items() if is_within_any(path, heads)}
    return [path for path, layer in within.items() if _outputs(layer) == num_outputs(model)]


def num_outputs(model: nn.Module) -> int:
    """How many class scores ``model`` gives.

    Raises:
        UsageError: there is no classifier.
    """
    return _outputs(_layers(model)[head_of(model)])


def set_num_classes(model: nn.Module, num_classes: int | None) -> None:
    """Replace the classifier where ``num_classes`` is given and ``model`` has another number of outputs.

    Raises:
        UsageError: see :func:`replace_head`.
    """
    if num_classes is not None and _checked(num_classes) != num_outputs(model):
        replace_head(model, num_classes)


def check_num_classes(model: nn.Module, num_classes: int | None, origin: str) -> None:
    """Refuse a ``num_classes`` that differs from the file's: its trained classifier would be lost.

    Args:
        model: the network of the file.
        num_classes: that was asked for, if any.
        origin: the file's name, for messages.

    Raises:
        UsageError: it has another number of outputs, or no classifier; or ``num_classes`` is not a whole number.
    """
    if num_classes is not None and _checked(num_classes) != (outputs := num_outputs(model)):
        raise UsageError(
            f"--num-classes {num_classes} does not match {origin}: its network has {outputs} outputs.",
            hint="Leave it out. sesurgeon finetune gives a network a new head for the classes of --data.",
        )


def replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a new classifier of ``num_classes`` outputs in place, with fresh weights; auxiliary heads follow.

    The attached provenance records the number of classes and forgets their names.

    Raises:
        UsageError: ``num_classes`` is not a whole number above 0, or there is no classifier.
    """
    num_classes = _checked(num_classes)
    if num_classes < 1:
        raise UsageError(f"A model cannot have {num_classes} classes.")
    head, layers = head_of(model), _layers(model)
    replaced = {path: layers[path] for path in (head, *_auxiliary_heads(model, head))}
    if (reset := _method_of_timm(model, "reset_classifier", num_classes)) is not None:
        _reset_by_timm(model, reset, replaced.pop(head))
    for path, layer in replaced.items():
        model.set_submodule(path, _resized(layer, num_classes))
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = num_classes  # type: ignore[assignment]
    attach_provenance(model, replace(provenance_of(model), num_classes=num_classes, classes=None, multi_label=False))


def _checked(num_classes: int) -> int:
    """``num_classes`` as a Python integer; a UsageError for anything else."""
    given: object = as_python(num_classes)
    if not is_whole(given):
        raise UsageError(f"num_classes (={given!r}) must be a whole number.")
    return given


def _classifiers_of_timm(model: nn.Module) -> list[nn.Module]:
    """What timm calls the classifier; several modules in distilled models. None of other libraries."""
    get_classifier = _method_of_timm(model, "get_classifier")
    answer = () if get_classifier is None else get_classifier()
    several = isinstance(answer, (tuple, list, nn.ModuleList))
    return [module for module in (answer if several else [answer]) if isinstance(module, nn.Module)]


def _method_of_timm(model: nn.Module, name: str, *arguments: Any) -> Callable[[], Any] | None:
    """A call of that method; None where there is none, or somebody else's, which takes other arguments."""
    method: Any = getattr(model, name, None)
    try:
        inspect.signature(method).bind(*arguments)
    except (TypeError, ValueError):
        return None
    return partial(method, *arguments)


def _reset_by_timm(model: nn.Module, reset: Callable[[], Any], like: nn.Module) -> None:
    """Let timm put in a new classifier on the device of ``like``, in its dtype and mode.

    timm makes more anew than that. What is trained and lies outside the heads stays, such as the norm before the last
    layer of EfficientViT's.
    """
    before, heads, weight = dict(model.named_modules()), heads_of(model), next(like.parameters())
    reset()
    for path, module in list(model.named_modules()):
        old = before.get(path)
        if module is old:
            continue
        if old is not None and _shapes(old) == _shapes(module) != {} and not is_within_any(path, heads):
            model.set_submodule(path, old)
        else:
            module.to(weight.device, weight.dtype)
            module.training = (old or like).training


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of its own tensors, not those of modules within."""
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _auxiliary_heads(model: nn.Module, head: str) -> list[str]:
    """Paths of the auxiliary layers that are as wide as the head."""
    layers = _layers(model)
    return [
        path
        for path, layer in layers.items()
        if path != head and _is_auxiliary(path) and _outputs(layer) == _outputs(layers[head])
    ]


def _layers(model: nn.Module) -> dict[str, Layer]:
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


def _resized(layer: Layer, outputs: int) -> nn.Module:
    bias = layer.bias is not None
    new: nn.Module
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, outputs, bias=bias)
    else:
        kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
        new = kind(layer.in_channels, outputs, kernel_size=1, bias=bias)
    return new.to(layer.weight.device, layer.weight.dtype).train(layer.training)
