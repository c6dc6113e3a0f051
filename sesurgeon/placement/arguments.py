"""The positional arguments of a forward, as plain data: what a plan keeps of its example inputs."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.models.inputs import random_input
from sesurgeon.scalars import as_python, is_whole

_MOST_NUMBERS = 2**30  # in a tensor: 4 GiB; typing errors are larger
FEW_FRACTIONS, FEW_WHOLES = 1024, 4096  # numbers in a tensor that a plan keeps as they are


def describe_arguments(arguments: Any) -> Any:
    """Tensors become ``{"shape": …, "dtype": …}``, tuples ``{"tuple": […]}``, dicts ``{"items": {…}}``.

    Lists and plain values stay what they are. Of a tensor's values as much is kept as its network may look at:
    lengths, time steps, boxes and masks as ``"values"``, and the range of images that noise would leave as ``"low"``
    and ``"high"``.

    Raises:
        UsageError: something of another kind, or an empty tensor, on which any two networks are equal.
    """
    if isinstance(arguments, Tensor):
        if not arguments.numel():
            raise UsageError(f"An example input of shape {tuple(arguments.shape)} is empty: it would prove nothing.")
        dtype = str(arguments.dtype).removeprefix("torch.")
        return {"shape": list(arguments.shape), "dtype": dtype} | _content(arguments.detach())
    if isinstance(arguments, list):
        return [describe_arguments(item) for item in arguments]
    if isinstance(arguments, tuple):
        return {"tuple": [describe_arguments(item) for item in arguments]}
    if isinstance(arguments, dict) and all(isinstance(key, (str, int)) for key in arguments):
        return {"items": {key: describe_arguments(item) for key, item in arguments.items()}}
    value = as_python(arguments)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UsageError(
        f"An example input of type {type(arguments).__name__} cannot be kept in a plan.",
        hint="Give tensors, numbers, strings, None, and lists, tuples or dicts (keys: strings, integers) of these.",
    )


def _content(tensor: Tensor) -> dict[str, Any]:
    """What is kept of the values of ``tensor``: all of them, their range, or nothing."""
    if tensor.is_complex() or tensor.layout != torch.strided:  # sparse ones have no such operations
        return {}
    if not tensor.is_floating_point():
        return _whole_numbers(tensor)
    low, high = (float(end) for end in tensor.cpu().double().aminmax())
    if tensor.ndim <= 2 and tensor.numel() <= FEW_FRACTIONS and -inf < low <= high < inf:
        return {"values": tensor.flatten().tolist()}
    # the same everywhere are images that stand for any, on which much would look equal
    narrow = low >= 0 or (low >= -1 and high <= 1)
    return {"low": low, "high": high} if narrow and low < high < inf else {}


def _whole_numbers(tensor: Tensor) -> dict[str, Any]:
    """All numbers where they are few; the one that all are, unless it is zero, which is the default; or nothing."""
    if bool((tensor.long() == tensor.flatten()[0].long()).all()):
        only = tensor.flatten()[0].item()
        return {"values": [only]} if only else {}
    return {"values": tensor.flatten().tolist()} if tensor.numel() <= FEW_WHOLES else {}


def wrong_with(description: Any) -> Iterator[str]:
    """Why :func:`make_arguments` cannot read ``description``, in words; nothing where it can."""
    if isinstance(description, list):
        for item in description:
            yield from wrong_with(item)
    elif isinstance(description, dict):
        keys = set(description)
        if keys == {"tuple"} and isinstance(description["tuple"], list):
            yield from wrong_with(description["tuple"])
        elif keys == {"items"} and isinstance(description["items"], dict):
            yield from wrong_with(list(description["items"].values()))
        elif keys - {"values"} == {"shape", "dtype"} or keys == {"shape", "dtype", "low", "high"}:
            yield from _wrong_with_tensor(description)
        else:
            yield f"an argument must be {{shape: …, dtype: …}}, {{tuple: […]}} or {{items: {{…}}}}, not {description!r}"
    elif not (description is None or isinstance(description, (bool, int, float, str))):
        yield f"an argument must be plain data, not {description!r}"


def _wrong_with_tensor(description: dict[str, Any]) -> Iterator[str]:
    wrong = list(_wrong_with_kind(description["shape"], description["dtype"]))
    yield from wrong
    if wrong:
        return
    dtype = getattr(torch, description["dtype"])
    if "values" in description and not _are_values(description["values"], prod(description["shape"]), dtype):
        yield "values must be one number of that dtype for all of the tensor, or a list of as many as it holds"
    if "low" in description:
        low, high = description["low"], description["high"]
        are_numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
        if not (dtype.is_floating_point and are_numbers and -inf < low <= high < inf):
            yield f"low and high must be the ends of a range of floating numbers, not {low!r} and {high!r}"


def _are_values(values: Any, count: int, dtype: torch.dtype) -> bool:
    try:
        return isinstance(values, list) and torch.tensor(values, dtype=dtype).shape in ((1,), (count,))
    except (TypeError, ValueError, RuntimeError):  # torch's, for what is no number or too large
        return False


def _wrong_with_kind(shape: Any, dtype: Any) -> Iterator[str]:
    sizes = shape if isinstance(shape, list) else [None]
    if not all(is_whole(size) and size >= 1 for size in sizes):
        yield f"shape must be a list of sizes, as [2, 3, 224, 224], not {shape!r}"
    elif prod(sizes) > _MOST_NUMBERS:
        yield f"shape must be of at most {_MOST_NUMBERS:,} numbers, not {shape!r}"
    if not (isinstance(dtype, str) and _holds_numbers(getattr(torch, dtype, None))):
        yield f"dtype must be one of torch's, as float32, not {dtype!r}"


def _holds_numbers(dtype: Any) -> bool:
    """Whether it is a dtype to which tensors can be converted; not to the quantised ones."""
    try:
        return isinstance(dtype, torch.dtype) and torch.zeros(1).to(dtype).dtype == dtype
    except RuntimeError:
        return False


def make_arguments(description: Any, model: nn.Module) -> Any:
    """The inverse of :func:`describe_arguments`: tensors of these shapes, with the values that were kept.

    Where none were, they are filled with the same noise each time (integers with zeros).
    """
    if isinstance(description, dict) and "shape" in description:
        return _make_tensor(description, model)
    if isinstance(description, dict) and "tuple" in description:
        return tuple(make_arguments(item, model) for item in description["tuple"])
    if isinstance(description, dict):
        return {key: make_arguments(item, model) for key, item in description["items"].items()}
    if isinstance(description, list):
        return [make_arguments(item, model) for item in description]
    return description


def _make_tensor(description: dict[str, Any], model: nn.Module) -> Tensor:
    shape, dtype = tuple(description["shape"]), getattr(torch, description["dtype"])
    if "values" in description:
        values = torch.tensor(description["values"], dtype=dtype, device=random_input((1,), model).device)
        return values.expand(prod(shape)).reshape(shape).clone()
    if "low" in description:
        return _between(description["low"], description["high"], shape).to(random_input((1,), model).device, dtype)
    noise = random_input(shape, model)
    return noise.to(dtype) if dtype.is_floating_point else torch.zeros_like(noise, dtype=dtype)


def _between(low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    """The same random numbers each time, with both ends among them, so that their description has the same range."""
    numbers = torch.rand(prod(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = low + (high - low) * numbers
    numbers[0], numbers[-1] = low, high
    return numbers.reshape(shape)
