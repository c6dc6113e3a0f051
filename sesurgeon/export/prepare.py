"""A network as all exported files hold it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sesurgeon.errors import SiteError, UsageError
from sesurgeon.export.capture import all_outputs, one_output
from sesurgeon.models.provenance import Provenance, provenance_of
from sesurgeon.surgery import fold, known_inputs, plan_of


def prepare(
    model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...] | None, *, every_output: bool = False
) -> tuple[nn.Module, Tensor, Provenance]:
    """A copy of ``model`` in eval mode and float32, on the CPU; an example; where it came from.

    It gives one tensor, or a tuple of all outputs that have a batch.

    Where the factors of its gates can go into the layers before them, exactly, they are there.

    Raises:
        UsageError: ``example_inputs`` are more than one tensor.
        UntraceableError: the model cannot be copied, fails on the example, or gives no tensor with a batch.
        VerificationError: with the factors in those layers the outputs are not the same.
    """
    model = getattr(model, "_orig_mod", model)  # out of torch.compile's wrapper, whose forward takes anything
    image = _one_image(model, example_inputs)
    of_outputs = all_outputs if every_output else one_output
    return of_outputs(_folded(model), image), image, provenance_of(model)


def _folded(model: nn.Module) -> nn.Module:
    """``model`` with plain gates where their factor can go into the layer before: an operation less for each block."""
    if plan_of(model) is None:
        return model
    try:
        return fold(model).model
    except (UsageError, SiteError):  # its layers were changed since surgery; a failed proof is not taken for that
        return model


def _one_image(model: nn.Module, given: Tensor | tuple[Tensor, ...] | None) -> Tensor:
    """The example as one float32 tensor on the CPU."""
    inputs = known_inputs(model) if given is None else given
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if given is None and not any(isinstance(value, Tensor) for value in inputs[1:]):
        inputs = inputs[:1]  # optional arguments, with which the blocks went in
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].ndim:
        given_types = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise UsageError(
            f"An exported file takes one tensor, the images; the example inputs are {given_types}.",
            hint="Wrap the model in a module whose forward takes the images alone.",
        )
    return inputs[0].detach().to("cpu", torch.float32)
