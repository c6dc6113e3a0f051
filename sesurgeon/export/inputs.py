"""What an exported file takes: the example inputs, and what they are called in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.surgery import known_inputs

ONLY_INPUT = "input"
"""The name of a file's input if it has only one."""

Inputs: TypeAlias = Mapping[str, Tensor]
"""What a network takes, in the order of its forward, by the names of a file's inputs; each with shape (batch, ...)."""


def named_inputs(model: nn.Module, given: Tensor | tuple[Any, ...] | None) -> dict[str, Tensor]:
    """The example inputs as tensors on the CPU, by the names of the file's inputs.

    A single one is called ``input``, and is float32. Several are called like the parameters of ``forward``, or
    ``input_1`` and so on where it takes ``*inputs``; of these, whole numbers and masks keep their type.

    Args:
        model: takes them as positional arguments.
        given: None stands for :func:`sesurgeon.surgery.known_inputs`.

    Raises:
        UsageError: they are not tensors that share their first dimension, the batch.
    """
    inputs = known_inputs(model) if given is None else given
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    while len(inputs) > 1 and (inputs[-1] is None or (given is None and not isinstance(inputs[-1], Tensor))):
        inputs = inputs[:-1]  # optional arguments, perhaps as they were when the blocks were inserted
    batches = {len(value) if isinstance(value, Tensor) and value.ndim else None for value in inputs}
    if len(batches) != 1 or None in batches:
        raise UsageError(
            "An exported file takes tensors with the batch as their first dimension; the example inputs are "
            f"{', '.join(map(described, inputs)) or 'nothing'}.",
            hint="Wrap the model in a module whose forward takes such tensors alone, the images for example.",
        )
    if len(inputs) == 1:
        return {ONLY_INPUT: inputs[0].detach().to("cpu", torch.float32)}
    return {name: _on_cpu(value) for name, value in zip(_names(model, len(inputs)), inputs, strict=True)}


def takes_unnamed(network: nn.Module, count: int) -> bool:
    """Whether its forward takes some of ``count`` arguments as ``*inputs``."""
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in _parameters(network)[:count])


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    """Those of its forward."""
    if isinstance(network, torch.jit.ScriptModule):
        return []  # its forward has no signature; and torch.export refuses it
    return list(inspect.signature(network.forward).parameters.values())


def _names(model: nn.Module, count: int) -> list[str]:
    names = [parameter.name for parameter in _parameters(model)][:count]
    if len(names) < count or takes_unnamed(model, count):
        return [f"{ONLY_INPUT}_{number}" for number in range(1, count + 1)]
    return names


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)


def described(value: object) -> str:
    """What ``value`` is, for a message."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
