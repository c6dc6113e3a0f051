"""A network in the form in which all exported files hold it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.errors import SiteError, UntraceableError, UsageError
from sesurgeon.export.outputs import all_outputs, first_output
from sesurgeon.models import copy_of
from sesurgeon.models.provenance import Provenance, provenance_of
from sesurgeon.surgery import fold, known_inputs, plan_of
from sesurgeon.words import first_line


@dataclass(frozen=True)
class Prepared:
    """A copy of a network, ready to be exported.

    Attributes:
        network: in eval mode and float32, on the CPU. It takes one tensor of images and returns a tensor, or a tuple of
            tensors if all outputs were asked for.
        outputs: what it returns for ``images``, by the names of the outputs in a file.
        left_out: the outputs of the caller's network that it does not return: their keys, or their numbers.
        images: an example of its input, float32, with shape (batch, channels, height, width).
        provenance: where the caller's network came from.
    """

    network: nn.Module
    outputs: dict[str, Tensor]
    left_out: tuple[str, ...]
    images: Tensor
    provenance: Provenance

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.images.shape[1:])

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output for one image, by name."""
        return {name: tuple(output.shape[1:]) for name, output in self.outputs.items()}


def prepare(
    model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...] | None, *, every_output: bool = False
) -> Prepared:
    """Copy ``model`` for an export, with the factors of its gates folded into the layers before them where possible.

    Args:
        model: in any mode and on any device; it stays as it is.
        example_inputs: what it takes; by default :func:`sesurgeon.surgery.known_inputs`.
        every_output: select all outputs with a batch dimension, not only the first.

    Raises:
        UsageError: ``example_inputs`` are more than one tensor.
        UntraceableError: the model cannot be copied, fails on the example, or gives no tensor with a batch.
        VerificationError: folding changed the outputs.
    """
    model = getattr(model, "_orig_mod", model)  # out of torch.compile's wrapper, whose forward takes anything
    images = _one_tensor(model, example_inputs)
    select = all_outputs if every_output else first_output
    network, outputs, left_out = select(_in_eval_mode(_folded(model)), images)
    return Prepared(network, outputs, left_out, images, provenance_of(model))


def _folded(model: nn.Module) -> nn.Module:
    """``model`` with plain gates where their factor can go into the layer before: one operation less per block."""
    if plan_of(model) is None:
        return model
    try:
        return fold(model).model
    except (UsageError, SiteError):  # its layers were changed since surgery; a failed proof is still raised
        return model


def _in_eval_mode(model: nn.Module) -> nn.Module:
    try:
        return copy_of(model).cpu().float().eval()
    except Exception as error:  # whatever a module's own attributes raise
        raise UntraceableError(f"The network cannot be copied: {first_line(error)}") from error


def _one_tensor(model: nn.Module, given: Tensor | tuple[Tensor, ...] | None) -> Tensor:
    """The example as one float32 tensor on the CPU."""
    inputs = known_inputs(model) if given is None else given
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if given is None and not any(isinstance(value, Tensor) for value in inputs[1:]):
        inputs = inputs[:1]  # the rest are optional arguments that were given when the blocks were inserted
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].ndim:
        given_types = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise UsageError(
            f"An exported file takes one tensor, the images; the example inputs are {given_types}.",
            hint="Wrap the model in a module whose forward takes the images alone.",
        )
    return inputs[0].detach().to("cpu", torch.float32)
