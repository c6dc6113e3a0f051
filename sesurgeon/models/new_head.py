"""Another classifier at the end of a network, for another number of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.models.head import (
    Layer,
    auxiliary_heads,
    head_of,
    heads_of,
    method_of_timm,
    num_outputs,
    pointwise_layers,
)
from sesurgeon.models.provenance import attach_provenance, provenance_of
from sesurgeon.paths import is_within_any
from sesurgeon.scalars import as_python, is_whole


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
    head, layers = head_of(model), pointwise_layers(model)
    replaced = {path: layers[path] for path in (head, *auxiliary_heads(model, head))}
    if (reset := method_of_timm(model, "reset_classifier", num_classes)) is not None:
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
    """The shapes of its own tensors, not those of modules within."""
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _resized(layer: Layer, outputs: int) -> nn.Module:
    bias = layer.bias is not None
    new: nn.Module
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, outputs, bias=bias)
    else:
        kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
        new = kind(layer.in_channels, outputs, kernel_size=1, bias=bias)
    return new.to(layer.weight.device, layer.weight.dtype).train(layer.training)
