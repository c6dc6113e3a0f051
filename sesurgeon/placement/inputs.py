"""The example inputs that a plan describes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sesurgeon.errors import UntraceableError
from sesurgeon.graph import Survey, same
from sesurgeon.models import fresh, isolated
from sesurgeon.placement.arguments import FEW_FRACTIONS, FEW_WHOLES, make_arguments
from sesurgeon.placement.plan import Plan


def inputs_of(plan: Plan, model: nn.Module) -> tuple[Any, ...] | None:
    """The positional arguments that ``plan`` was made with, for ``model``; None where it leaves them open."""
    return None if plan.inputs is None else _as_weights(tuple(make_arguments(plan.inputs, model)), model)


def check_kept_inputs(plan: Plan, found: Survey) -> None:
    """Raise an UntraceableError if the network that was surveyed does not run on the inputs of ``plan``.

    These have the shapes of the survey's inputs and, as far as a plan keeps them, their values. Now the user can still
    do something about it; when a saved network is loaded it is too late.
    """
    inputs = inputs_of(plan, found.model)
    if inputs is None or same(_on_cpu(inputs), _on_cpu(found.inputs)):
        return
    try:
        with isolated(found.model, training=False):
            found.model(*fresh(inputs))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the caller's own code
        raise UntraceableError(
            f"{type(found.model).__name__} runs on the example inputs, but not on those that can be restored from a "
            f"plan, which loading a saved network needs: {type(error).__name__}: {error}",
            hint=f"A plan keeps shapes, types, ranges, and the values of up to {FEW_WHOLES:,} whole numbers or "
            f"{FEW_FRACTIONS:,} others in one or two dimensions; the rest is noise, or zeros. Give fewer numbers, or "
            "wrap the network in a module that makes such inputs itself.",
        ) from error


def _on_cpu(arguments: tuple[Any, ...]) -> Any:
    """On the CPU and dense, to be compared: not all need to be where the weights are, and sparse tensors cannot be."""
    return tree_map(lambda leaf: leaf.cpu().to_dense() if isinstance(leaf, Tensor) else leaf, arguments)


def _as_weights(arguments: tuple[Any, ...], model: nn.Module) -> tuple[Any, ...]:
    """Floating tensors in the dtype of the weights, where all have the same: they may have been converted since."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(types) != 1:
        return arguments
    (dtype,) = types
    converted: tuple[Any, ...] = tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, arguments
    )
    return converted
