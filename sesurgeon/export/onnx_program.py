"""From a module to an ONNX program, through torch's exporter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.export.capture import capture, for_each_input, quiet_exporter
from sesurgeon.export.outputs import Selected
from sesurgeon.export.prepare import Prepared
from sesurgeon.words import first_line


def to_onnx(prepared: Prepared, opset: int | None) -> torch.onnx.ONNXProgram:
    """Convert a network to ONNX.

    Args:
        prepared: the network.
        opset: of the file; by default the exporter's own choice.

    Raises:
        UntraceableError: the network cannot be captured or converted.
        UsageError: the exporter cannot write this opset.
    """
    import onnx
    import onnx_ir.passes.common

    inputs, outputs = list(prepared.inputs), list(prepared.outputs)
    network = _without_names(prepared.network, [*inputs, *outputs])
    exported = capture(network, prepared.inputs.values())
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                exported,
                input_names=inputs,
                output_names=outputs,
                # names the dimension that capture made dynamic
                dynamic_shapes=for_each_input(network, len(inputs), {0: "batch"}),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors are private classes
        raise UntraceableError(f"The network has no translation to ONNX: {first_line(_root(error))}") from error
    if program is None:
        raise UntraceableError(f"torch {torch.__version__} returned no ONNX program.")
    onnx_ir.passes.common.NameFixPass()(program.model)  # a value inside may have the name that an output was given
    got = program.model.opset_imports[""]
    if opset is not None and got != opset:  # without a word, the exporter falls back to its own
        raise UsageError(
            f"torch {torch.__version__} does not write opset {opset}.",
            hint=f"Ask for one from {got} to {onnx.defs.onnx_opset_version()}, or leave it to the exporter.",
        )
    return program


def _without_names(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """``network``, nested in another module if one of its own tensors has one of these names."""
    if any(isinstance(getattr(network, name, None), Tensor) for name in names):
        return Selected(network, lambda outputs: outputs)
    return network


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)
