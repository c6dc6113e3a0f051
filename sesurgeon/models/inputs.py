"""Example inputs for a model that somebody hands us."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.models.isolation import isolated
from sesurgeon.models.provenance import provenance_of

# Tried in turn where nothing says what the model takes: ImageNet's, Inception's, then those of small data sets.
_SIDES = (224, 299, 32, 28, 64, 96, 128, 256, 384, 512)
_BATCH = 2  # batch norm in train mode needs more than one value a channel


def example_inputs(model: nn.Module) -> tuple[Tensor]:
    """One batch of two random inputs, of the first shape that ``model`` takes in eval and in train mode.

    Shapes come from the model's own preprocessing, from timm's ``pretrained_cfg``, or else from the first
    convolution's channels and dimensions with usual sizes. Where none works in train mode, the first that works in
    eval mode is taken; where none works at all, the first, so that the caller gets to see the model's own error.
    """
    works_in_eval = []
    for inputs in candidate_inputs(model):
        if _runs(model, inputs, training=False):
            if _runs(model, inputs, training=True):
                return inputs
            works_in_eval.append(inputs)
    return works_in_eval[0] if works_in_eval else next(candidate_inputs(model))


def candidate_inputs(model: nn.Module) -> Iterator[tuple[Tensor]]:
    """Batches of two that ``model`` may take, the likeliest first: see :func:`example_inputs`."""
    for shape in dict.fromkeys(_shapes(model)):
        yield (random_input((_BATCH, *shape), model),)


def random_input(shape: tuple[int, ...], model: nn.Module) -> Tensor:
    """Normal noise of ``shape``, the same each time, of the type and on the device of the model's parameters."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device, parameter.dtype)


def input_channels(model: nn.Module) -> int | None:
    """Channels of the first convolution; None where there is no convolution."""
    first = _first_conv(model)
    return None if first is None else first.in_channels


def _first_conv(model: nn.Module) -> _ConvNd | None:
    return next((module for module in model.modules() if isinstance(module, _ConvNd)), None)


def _shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    preprocessing = provenance_of(model).preprocessing
    if preprocessing is not None:
        yield preprocessing.input_size
    configuration = getattr(model, "pretrained_cfg", None)
    if isinstance(configuration, dict) and "input_size" in configuration:
        yield tuple(configuration["input_size"])
    first = _first_conv(model)
    channels = 3 if first is None else first.in_channels
    dims = 2 if first is None else len(first.kernel_size)
    for side in _SIDES:
        # video networks take few frames; torchvision's are trained on 16 of 112 pixels
        yield (channels, 16, 112, 112) if dims == 3 else (channels, *[side] * dims)


def _runs(model: nn.Module, inputs: tuple[Tensor], *, training: bool) -> bool:
    try:
        with isolated(model, training=training):
            model(*inputs)
    except Exception:  # the caller's own code, on a guess of ours
        return False
    return True
