"""Example inputs for a model of which nothing else is known."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sesurgeon.models.detection import image_sizes, is_detector, with_targets
from sesurgeon.models.isolation import fresh, isolated
from sesurgeon.models.provenance import provenance_of

# Tried in turn where nothing says what the model takes: ImageNet's, Inception's, then those of small data sets.
_SIDES = (224, 299, 32, 28, 64, 96, 128, 256, 384, 512)
# Of frames and pixels: torchvision's networks of 2018 are trained on the first, its later ones on the second; then
# volumes, as in medicine.
_VOLUMES = ((16, 112, 112), (16, 224, 224), (32, 32, 32), (64, 64, 64), (96, 96, 96))
_PAIR_SIDE = 128  # before the others where a forward wants several images: the smallest that RAFT takes
_BATCH = 2  # batch norm in train mode needs more than one value a channel


def example_inputs(model: nn.Module) -> tuple[Any, ...]:
    """Positional arguments of forward: the first of :func:`candidate_inputs` that runs in eval and in train mode.

    Where none runs in train mode, the first that runs in eval mode is taken; where none runs at all, the first, so
    that the caller gets the model's own error.
    """
    works_in_eval = []
    for inputs in candidate_inputs(model):
        if _runs(model, inputs, training=False):
            if any(_runs(model, arguments, training=True) for arguments in train_inputs(model, inputs)):
                return inputs
            works_in_eval.append(inputs)
    return works_in_eval[0] if works_in_eval else next(candidate_inputs(model))


def candidate_inputs(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Positional arguments that ``model`` may take in eval mode, the likeliest first.

    One batch of two random images: shapes come from the model's own preprocessing, from timm's ``pretrained_cfg``, or
    else from the first convolution's channels and dimensions with usual sizes. A forward that asks for several
    arguments gets the same images for each (optical flow), then images and one integer an image (a diffusion model's
    time step). torchvision's detectors get a list of two images.
    """
    if is_detector(model):
        for height, width in image_sizes(model):
            image = random_input((input_channels(model) or 3, height, width), model)
            yield ([image, image.clone()],)
        return
    further = _required_arguments(model) - 1
    for shape in dict.fromkeys(_shapes(model, several=further > 0)):
        images = random_input((_BATCH, *shape), model)
        yield (images, *(images.clone() for _ in range(further)))
        if further > 0:
            yield (images, *(torch.zeros(_BATCH, dtype=torch.int64, device=images.device) for _ in range(further)))


def eval_inputs(model: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of the given arguments that a pass in eval mode takes: detectors need no targets there."""
    return given[:1] if is_detector(model) else given


def train_inputs(model: nn.Module, given: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Positional arguments for a pass in train mode, the likeliest first: those that were given, with targets.

    Args:
        model: the network.
        given: arguments that it takes in eval mode, or with targets already.
    """
    if is_detector(model) and len(given) == 1:
        yield from with_targets(model, given[0])
    else:
        yield given


def random_input(shape: tuple[int, ...], model: nn.Module) -> Tensor:
    """Normal noise of ``shape``, the same each time, of the type and on the device of the model's parameters."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device, parameter.dtype)


def input_channels(model: nn.Module) -> int | None:
    """Channels of the first convolution; None where there is no convolution."""
    first = _first_conv(model)
    return None if first is None else first.in_channels


def input_dims(model: nn.Module) -> int | None:
    """Spatial dimensions of the first convolution; None where there is no convolution."""
    first = _first_conv(model)
    return None if first is None else len(first.kernel_size)


def _first_conv(model: nn.Module) -> _ConvNd | None:
    return next((module for module in model.modules() if isinstance(module, _ConvNd)), None)


def _required_arguments(model: nn.Module) -> int:
    """How many positional arguments ``forward`` has no default for; at least the one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that Python cannot look into, as a compiled one
        return 1
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return max(1, sum(one.default is one.empty for one in positional))


def _shapes(model: nn.Module, *, several: bool) -> Iterator[tuple[int, ...]]:
    preprocessing = provenance_of(model).preprocessing
    if preprocessing is not None:
        yield preprocessing.input_size
    configuration = getattr(model, "pretrained_cfg", None)
    if isinstance(configuration, dict) and "input_size" in configuration:
        yield tuple(configuration["input_size"])
    channels, dims = input_channels(model) or 3, input_dims(model) or 2
    sides = (_PAIR_SIDE, *_SIDES) if several else _SIDES
    for size in _VOLUMES if dims == 3 else [(side,) * dims for side in sides]:
        yield channels, *size


def _runs(model: nn.Module, inputs: tuple[Any, ...], *, training: bool) -> bool:
    try:
        with isolated(model, training=training):
            model(*fresh(inputs))
    except Exception:  # the caller's own code, on a guess of ours
        return False
    return True
