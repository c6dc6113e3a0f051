"""The positional arguments of a forward, as plain data: what a plan keeps of its example inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.models.inputs import random_input


def describe_arguments(arguments: Any) -> Any:
    """Tensors become ``{"shape": …, "dtype": …}``, tuples ``{"tuple": […]}``, dicts ``{"items": {…}}``.

    Lists and plain values stay what they are.

    Raises:
        UsageError: something of another kind.
    """
    if isinstance(arguments, Tensor):
        return {"shape": list(arguments.shape), "dtype": str(arguments.dtype).removeprefix("torch.")}
    if isinstance(arguments, list):
        return [describe_arguments(item) for item in arguments]
    if isinstance(arguments, tuple):
        return {"tuple": [describe_arguments(item) for item in arguments]}
    if isinstance(arguments, dict) and all(isinstance(key, (str, int)) for key in arguments):
        return {"items": {key: describe_arguments(item) for key, item in arguments.items()}}
    if arguments is None or isinstance(arguments, (bool, int, float, str)):
        return arguments
    raise UsageError(
        f"An example input of type {type(arguments).__name__} cannot be kept in a plan.",
        hint="Give tensors, numbers, strings, None, and lists, tuples or dicts (keys: strings, integers) of these.",
    )


def make_arguments(description: Any, model: nn.Module) -> Any:
    """The inverse: tensors of the described shapes, filled with the same noise each time (integers with zeros)."""
    if isinstance(description, dict) and "shape" in description:
        dtype = getattr(torch, description["dtype"])
        noise = random_input(tuple(description["shape"]), model)
        return noise.to(dtype) if dtype.is_floating_point else torch.zeros_like(noise, dtype=dtype)
    if isinstance(description, dict) and "tuple" in description:
        return tuple(make_arguments(item, model) for item in description["tuple"])
    if isinstance(description, dict):
        return {key: make_arguments(item, model) for key, item in description["items"].items()}
    if isinstance(description, list):
        return [make_arguments(item, model) for item in description]
    return description
