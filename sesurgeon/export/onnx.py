"""An ONNX file with a free batch size, checked against PyTorch before it takes its name."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon import __version__
from sesurgeon.errors import UntraceableError, UsageError, VerificationError
from sesurgeon.export.capture import capture, first_line, one_output, quiet_exporter, run
from sesurgeon.export.parity import Parity, onnx_parity, random_images
from sesurgeon.files import atomic_write, check_writable
from sesurgeon.models.inputs import example_inputs as default_inputs
from sesurgeon.models.provenance import Provenance, provenance_of
from sesurgeon.surgery.folding import fold

# protobuf holds no message of 2 GiB or more; the rest is room for the graph itself
_ONE_FILE_LIMIT = 2**31 - 2**24
_PARITY_BATCHES = (1, 4)


@dataclass(frozen=True)
class OnnxReport:
    """What was written.

    Attributes:
        path: the file.
        opset: the version of ONNX's operators that the file is written in.
        input_shape: (channels, height, width) of ``input``; its batch is free.
        output_shape: of ``logits`` for one image.
        size: bytes on disk, external data included.
        parity: how far onnxruntime is from PyTorch; None when that was not asked for.
    """

    path: Path
    opset: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    size: int
    parity: Parity | None


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    force: bool = True,
    verify: bool = True,
) -> OnnxReport:
    """Write ``model`` in eval mode, in float32, as one ONNX file.

    Input ``input`` with shape (batch, channels, height, width), output ``logits``. Above 2 GB the weights lie
    beside it in ``<path>.data``. The metadata holds ``sesurgeon_version`` and, where known, ``classes`` and
    ``preprocessing`` as JSON, and ``multi_label`` where images may have several. ``model`` itself is left as it is: a
    copy is exported, with its gates' factors folded into the layers before them where that is exact.

    Args:
        model: any network with one image tensor in; of several outputs the first is exported.
        path: where to; nothing lies there unless all checks have passed.
        opset: of ONNX's operators; the exporter's own choice by default.
        example_inputs: images, as the model takes them; made from the model by default.
        force: replace what lies at ``path``.
        verify: compare with PyTorch in onnxruntime, at batch 1 and 4 (and on ``example_inputs`` where given).

    Raises:
        OutputError: ``path`` cannot be written.
        UsageError: ``opset`` cannot be had, or ``example_inputs`` are more than one tensor.
        UntraceableError: the network cannot be exported, or works for one batch size alone.
        VerificationError: onnxruntime does not compute what PyTorch computes.
    """
    path = Path(path)
    check_writable(path, force=force)
    model = getattr(model, "_orig_mod", model)  # out of torch.compile's wrapper, whose forward takes anything
    provenance = provenance_of(model)
    image = _one_image(model, example_inputs)
    prepared = one_output(_folded(model), image)
    program = _to_onnx(prepared, image, opset)
    _describe(program.model, provenance)

    with _draft(path, force=force) as draft:
        _save(program.model, draft)
        _check(draft)
        parity = None
        if verify:
            batches = [random_images((size, *image.shape[1:]), provenance.preprocessing) for size in _PARITY_BATCHES]
            parity = onnx_parity(prepared, draft, batches if example_inputs is None else [*batches, image])
            _require(parity)
        size = sum(file.stat().st_size for file in draft.parent.iterdir())

    return OnnxReport(
        path=path,
        opset=program.model.opset_imports[""],
        input_shape=tuple(image.shape[1:]),
        output_shape=tuple(run(prepared, image).shape[1:]),
        size=size,
        parity=parity,
    )


def _folded(model: nn.Module) -> nn.Module:
    """``model`` with plain gates where their factor can go into the layer before: an operation less for each block."""
    try:
        return fold(model).model
    except (UsageError, VerificationError):  # changed since surgery, or augmented before it came into another network
        return model


def _one_image(model: nn.Module, given: Tensor | tuple[Tensor, ...] | None) -> Tensor:
    """The example as one float32 tensor on the CPU."""
    inputs = default_inputs(model) if given is None else given
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].ndim:
        given_types = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise UsageError(
            f"An exported file takes one tensor, the images; the example inputs are {given_types}.",
            hint="Wrap the model in a module whose forward takes the images alone.",
        )
    return inputs[0].detach().to("cpu", torch.float32)


def _to_onnx(model: nn.Module, image: Tensor, opset: int | None) -> torch.onnx.ONNXProgram:
    """Convert, and hold the exporter to the opset asked for: it falls back to its own without a word."""
    import onnx

    exported = capture(model, image)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                exported,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),  # names the dimension that capture left free
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors are private classes
        raise UntraceableError(f"The network has no translation to ONNX: {first_line(_root(error))}") from error
    if program is None:
        raise UntraceableError(f"torch {torch.__version__} returned no ONNX program.")
    got = program.model.opset_imports[""]
    if opset is not None and got != opset:
        raise UsageError(
            f"Opset {opset} cannot be had: asked for it, torch {torch.__version__} gives {got}.",
            hint=f"Ask for one from {got} to {onnx.defs.onnx_opset_version()}, or leave it to the exporter.",
        )
    return program


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def _describe(model: Any, provenance: Provenance) -> None:
    """Put our metadata into an ``onnx_ir.Model``, and take out where this machine keeps its sources."""
    model.metadata_props["sesurgeon_version"] = __version__
    if provenance.classes is not None:
        model.metadata_props["classes"] = json.dumps(provenance.classes)
    if provenance.multi_label:
        model.metadata_props["multi_label"] = "true"
    if provenance.preprocessing is not None:
        model.metadata_props["preprocessing"] = json.dumps(provenance.preprocessing.to_dict())
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


@contextlib.contextmanager
def _draft(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a file named as ``path`` in a temporary folder beside it; it moves there when the block ends.

    A folder, because a model above 2 GB is two files, and the first names the second.
    """
    with (
        atomic_write(path, force=force) as temporary,
        tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder,
    ):
        draft = Path(folder) / path.name
        yield draft
        if _data_of(draft).exists():
            os.replace(_data_of(draft), _data_of(path))
        os.replace(draft, temporary)


def _save(model: Any, path: Path) -> None:
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=_data_of(path).name if weights > _ONE_FILE_LIMIT else None)


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"onnx.checker refuses the exported file: {error}") from error


def _require(parity: Parity) -> None:
    if not parity.passed:
        raise VerificationError(
            f"onnxruntime's outputs are up to {parity.max_abs:.3g} off PyTorch's, {parity.max_rel:.3g} of "
            f"the largest (allowed: {parity.tolerance:g}); top-1 agrees on {parity.top1_agreement:.0%}.",
            hint="No file was written. Look for what forward does differently while it is exported.",
        )
