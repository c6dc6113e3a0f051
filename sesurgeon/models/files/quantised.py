"""Files of quantised networks: their layers are packed integers, without gradients. They are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from sesurgeon.errors import UnreadableFileError

# of classes, by their full names: a file gives no more before it is read
_QUANTISED = re.compile(
    r"(torch\.(ao\.)?(quantization|nn\.(.*\.)?(quantized|quantizable|qat))|torchao|torchvision\.models\.quantization)\."
)


def is_quantised(name: str) -> bool:
    """Whether a class (as ``package.module.Class``) is of layers that are quantised or made for it.

    Fused layers (``torch.ao.nn.intrinsic``) may still be float layers.
    """
    return _QUANTISED.match(name) is not None


def refuse_quantised_names(names: Iterable[str], origin: str) -> None:
    """Refuse a file that names classes of quantised layers.

    Raises:
        UnreadableFileError: one of ``names`` is.
    """
    found = next((name for name in names if is_quantised(name)), None)
    if found is not None:
        raise _refusal(origin, found)


def refuse_quantised_module(model: nn.Module, origin: str) -> None:
    """Refuse a model with quantised layers.

    Raises:
        UnreadableFileError: it has some.
    """
    refuse_quantised_names((f"{type(layer).__module__}.{type(layer).__name__}" for layer in model.modules()), origin)


def refuse_quantised_state(state: Mapping[str, object], origin: str) -> None:
    """Refuse the state dict of a quantised model.

    Raises:
        UnreadableFileError: it is one.
    """
    for key, value in state.items():
        if "_packed_params" in key or (isinstance(value, torch.Tensor) and value.is_quantized):
            raise _refusal(origin, key)


def _refusal(origin: str, example: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"{origin} holds a quantised model (as {example} shows), which cannot be edited or trained.",
        hint="Give the float model that it was made from, and quantise the result afterwards.",
    )
