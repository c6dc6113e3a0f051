"""The positional arguments of a forward, as plain data: what a plan keeps of its example inputs."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks.config import is_whole
from sesurgeon.errors import UsageError
from sesurgeon.models.inputs import random_input

_MOST_NUMBERS = 2**30  # in a tensor: 4 GiB; typing errors are larger


def describe_arguments(arguments: Any) -> Any:
    """Tensors become ``{"shape": …, "dtype": …}``, tuples ``{"tuple": […]}``, dicts ``{"items": {…}}``.

    Lists and plain values stay what they are.

    Raises:
        UsageError: something of another kind, or an empty tensor, on which any two networks are equal.
    """
    if isinstance(arguments, Tensor):
        if not arguments.numel():
            raise UsageError(f"An example input of shape {tuple(arguments.shape)} is empty: it would prove nothing.")
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


def wrong_with(description: Any) -> Iterator[str]:
    """Why :func:`make_arguments` could not read ``description``, in words; nothing where it can."""
    if isinstance(description, list):
        for item in description:
            yield from wrong_with(item)
    elif isinstance(description, dict):
        keys = set(description)
        if keys == {"tuple"} and isinstance(description["tuple"], list):
            yield from wrong_with(description["tuple"])
        elif keys == {"items"} and isinstance(description["items"], dict):
            yield from wrong_with(list(description["items"].values()))
        elif keys == {"shape", "dtype"}:
            yield from _wrong_with_tensor(description["shape"], description["dtype"])
        else:
            yield f"an argument must be {{shape: …, dtype: …}}, {{tuple: […]}} or {{items: {{…}}}}, not {description!r}"
    elif not (description is None or isinstance(description, (bool, int, float, str))):
        yield f"an argument must be plain data, not {description!r}"


def _wrong_with_tensor(shape: Any, dtype: Any) -> Iterator[str]:
    sizes = shape if isinstance(shape, list) else [None]
    if not all(is_whole(size) and size >= 1 for size in sizes):
        yield f"shape must be a list of sizes, as [2, 3, 224, 224], not {shape!r}"
    elif prod(sizes) > _MOST_NUMBERS:
        yield f"shape must be of at most {_MOST_NUMBERS:,} numbers, not {shape!r}"
    if not (isinstance(dtype, str) and _holds_numbers(getattr(torch, dtype, None))):
        yield f"dtype must be one of torch's, as float32, not {dtype!r}"


def _holds_numbers(dtype: Any) -> bool:
    """A type to which others can be converted; the quantised ones are not."""
    try:
        return isinstance(dtype, torch.dtype) and torch.zeros(1).to(dtype).dtype == dtype
    except RuntimeError:
        return False


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
