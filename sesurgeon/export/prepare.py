"""A network in the form in which all exported files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sesurgeon.errors import SiteError, UntraceableError, UsageError
from sesurgeon.export.inputs import Inputs, named_inputs
from sesurgeon.export.outputs import all_outputs, first_output
from sesurgeon.models import copy_of
from sesurgeon.models.provenance import Provenance, provenance_of
from sesurgeon.surgery import fold, plan_of
from sesurgeon.words import first_line


@dataclass(frozen=True)
class Prepared:
    """A copy of a network, ready to be exported.

    Attributes:
        network: in eval mode and float32, on the CPU. It takes tensors and returns a tensor, or a tuple of tensors if
            all outputs were asked for.
        outputs: what it returns for ``inputs``, by the names of the outputs in a file.
        left_out: the outputs of the caller's network that it does not return: their keys, or their numbers.
        inputs: an example of what it takes, by the names of the inputs in a file, each with shape (batch, ...).
        provenance: where the caller's network came from.
    """

    network: nn.Module
    outputs: dict[str, Tensor]
    left_out: tuple[str, ...]
    inputs: Inputs
    provenance: Provenance


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each without the batch, by name."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}


def prepare(
    model: nn.Module, example_inputs: Tensor | tuple[Any, ...] | None, *, every_output: bool = False
) -> Prepared:
    """Copy ``model`` for an export, with the factors of its gates folded into the layers before them where possible.

    Args:
        model: in any mode and on any device; it stays as it is.
        example_inputs: what it takes; by default :func:`sesurgeon.surgery.known_inputs`.
        every_output: select all outputs with a batch dimension, not only the first.

    Raises:
        UsageError: ``example_inputs`` are not tensors with a batch.
        UntraceableError: the model cannot be copied, fails on the example, or gives no tensor with a batch.
        VerificationError: folding changed the outputs.
    """
    model = getattr(model, "_orig_mod", model)  # out of torch.compile's wrapper, whose forward takes anything
    inputs = named_inputs(model, example_inputs)
    select = all_outputs if every_output else first_output
    network, outputs, left_out = select(_copy_of(model).float().eval(), inputs)
    return Prepared(network, outputs, left_out, inputs, provenance_of(model))


def _copy_of(model: nn.Module) -> nn.Module:
    """A copy on the CPU, with plain gates where their factor can go into the layer before: an operation less each."""
    with suppress(UsageError, SiteError):  # its layers were changed since surgery; a failed proof is still raised
        if plan_of(model) is not None:
            return fold(model).model.cpu()
    try:
        return copy_of(model).cpu()
    except Exception as error:  # whatever a module's own attributes raise
        raise UntraceableError(f"The network cannot be copied: {first_line(error)}") from error
