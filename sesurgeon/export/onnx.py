"""An ONNX file with a free batch size, checked against PyTorch before it takes its name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from sesurgeon import __version__
from sesurgeon.blocks.config import is_whole
from sesurgeon.errors import UntraceableError, UsageError, VerificationError
from sesurgeon.export.blocked import for_blocked_layout
from sesurgeon.export.capture import ONLY_INPUT, FirstOutput, capture, left_out, names_of, quiet_exporter, shapes_of
from sesurgeon.export.onnx_files import check_onnx_path, onnx_draft
from sesurgeon.export.parity import Parity, onnx_parity, trial_images
from sesurgeon.export.precision import TOLERANCES, Precision, reduce
from sesurgeon.export.precision import simplify as simplify_file
from sesurgeon.export.prepare import prepare
from sesurgeon.files import target_of
from sesurgeon.finetune.data.heldout import digest_of
from sesurgeon.models.provenance import Provenance
from sesurgeon.words import first_line

Batch: TypeAlias = Tensor | Sequence[Tensor]
"""Images (N, C, H, W), alone or with labels behind them."""

# protobuf holds no message of 2 GiB or more; the rest is room for the graph itself
_ONE_FILE_LIMIT = 2**31 - 2**24


@dataclass(frozen=True)
class OnnxReport:
    """What was written.

    Attributes:
        path: the file.
        data: above 2 GB, the file beside it that holds its weights, and goes where it goes; else None.
        opset: the version of ONNX's operators that the file is written in.
        input_shape: (channels, height, width) of ``input``; its batch is free.
        outputs: the shape of each output for one image, by name; ``logits`` where there is one.
        left_out: the network's other outputs, by key or number, which the file does not have.
        size: bytes on disk, external data included.
        precision: of its weights.
        parity: how far onnxruntime is from PyTorch; None when that was not asked for.
    """

    path: Path
    data: Path | None
    opset: int
    input_shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    size: int
    precision: Precision
    parity: Parity | None


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    precision: Precision = "float32",
    calibration: Iterable[Batch] = (),
    compare_on: Iterable[Batch] = (),
    all_outputs: bool = False,
    simplify: bool = False,
    for_cpu: bool = False,
    force: bool = True,
    verify: bool = True,
) -> OnnxReport:
    """Write ``model`` in eval mode as one ONNX file.

    Input ``input`` with shape (batch, channels, height, width), output ``logits``, of float32. Above 2 GB the
    weights lie beside it in ``<path>.data``, or in ``<path>.2.data`` where those of a file to be replaced lie there.
    The metadata holds ``sesurgeon_version`` and, where known, ``classes`` and ``preprocessing`` as JSON, and
    ``multi_label`` where images may have several. ``model`` itself is left as it is: a copy is exported, with the
    factors of its gates folded into the layers before them where that is exact.

    Args:
        model: any network with one image tensor in; of several outputs the first is exported by default.
        path: where to; nothing lies there unless all checks have passed.
        opset: of ONNX's operators; the exporter's own choice by default.
        example_inputs: images, as the model takes them; by default :func:`sesurgeon.surgery.known_inputs`.
        precision: of the weights: float32; float16, half the size; int8, a quarter, and faster on many processors.
        calibration: batches of images for int8, prepared as for the model; a few hundred are enough. Labels beside the
            images, as a DataLoader gives them, are passed over.
        compare_on: likewise, batches on which the file is compared with PyTorch.
        all_outputs: export all outputs that are tensors with a batch, under their keys, or as ``output_1``, ….
        simplify: let onnxslim take out what need not be there.
        for_cpu: write float32 for the kernels that onnxruntime has on CPUs, where scaling by channels is slow: more
            nodes and less time there (see :mod:`sesurgeon.export.blocked`).
        force: replace what lies at ``path``, and its weights beside it.
        verify: compare with PyTorch in onnxruntime, at batch 1 and 4 of random images (or of the example's, where the
            network gives NaN for random ones), on ``compare_on`` and on ``example_inputs``; int8, whose ranges are
            those of real images, on ``compare_on`` or ``calibration`` alone.

    Raises:
        OutputError: ``path`` cannot be written: see :func:`check_onnx_path`, or the disk is full.
        UsageError: there is no such ``precision``, ``opset`` cannot be had, ``example_inputs`` are more than one
            tensor, batches are no images, int8 lacks them, or a precision other than float32 is asked for together with
            ``for_cpu`` or for a file above 2 GB.
        UntraceableError: the network cannot be exported, or works for one batch size alone.
        VerificationError: onnxruntime does not compute what PyTorch computes, or the folded network what it did before,
            or the network's outputs are not finite.
    """
    path = Path(path)
    check_onnx_path(path, force=force)
    _check_choices(precision, opset)
    calibration, compare_on = list(calibration), list(compare_on)
    if precision == "int8" and not calibration:
        raise UsageError("int8 needs images, from which activations get their ranges.", hint="Give calibration images.")
    if for_cpu and precision != "float32":
        raise UsageError(
            f"for_cpu is for float32, not for {precision}: kernels differ.", hint="Ask for one of the two."
        )
    prepared, image, provenance = prepare(model, example_inputs, every_output=all_outputs)
    calibration = _images_of("calibration", calibration, image)
    compare_on = _images_of("compare_on", compare_on, image)
    program = _to_onnx(prepared, image, opset)
    if for_cpu:
        for_blocked_layout(program.model)
    _describe(program.model, provenance)

    with onnx_draft(path, force=force) as (draft, data):
        _save(program.model, draft, data)
        if simplify or precision != "float32":
            _reduce(draft, data, precision, calibration, slim=simplify)
        _check(draft)
        parity = None
        if verify:
            if precision == "int8":
                batches = list(compare_on or calibration)
            else:
                batches = [*trial_images(prepared, image, provenance.preprocessing), *compare_on]
                batches += [] if example_inputs is None else [image]
            parity = onnx_parity(prepared, draft, batches, TOLERANCES[precision])
            parity.require("onnxruntime's")
        size = sum(file.stat().st_size for file in draft.parent.iterdir())
        beside = target_of(path).with_name(data.name) if data.exists() else None

    return OnnxReport(
        path=path,
        data=beside,
        opset=program.model.opset_imports[""],
        input_shape=tuple(image.shape[1:]),
        outputs=shapes_of(prepared, image),
        left_out=left_out(prepared),
        size=size,
        precision=precision,
        parity=parity,
    )


def _check_choices(precision: object, opset: object) -> None:
    if precision not in get_args(Precision):
        raise UsageError(f"precision (={precision!r}) must be one of: {', '.join(get_args(Precision))}.")
    if not (opset is None or is_whole(opset)):
        raise UsageError(f"opset (={opset!r}) must be a whole number.")


def _images_of(name: str, batches: Iterable[Batch], like: Tensor) -> list[Tensor]:
    """The images of each batch, of as many dimensions as those of ``like``, without labels beside them."""
    found = [batch[0] if isinstance(batch, (list, tuple)) and batch else batch for batch in batches]
    others = [images for images in found if not (isinstance(images, Tensor) and images.ndim == like.ndim)]
    if others:
        what = f"shape {tuple(others[0].shape)}" if isinstance(others[0], Tensor) else type(others[0]).__name__
        raise UsageError(
            f"{name} must be batches of images, tensors of {like.ndim} dimensions, not of {what}.",
            hint="Give them as a list, or a DataLoader of images or of (images, labels).",
        )
    return [images for images in found if isinstance(images, Tensor)]


def _to_onnx(model: nn.Module, image: Tensor, opset: int | None) -> torch.onnx.ONNXProgram:
    """Convert, and hold the exporter to the opset asked for: it falls back to its own without a word."""
    import onnx

    names = names_of(model)
    if any(isinstance(getattr(model, name, None), Tensor) for name in (ONLY_INPUT, *names)):
        model = FirstOutput(model)  # its tensors are called model.input and model.logits: names are given but once
    exported = capture(model, image)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                exported,
                input_names=[ONLY_INPUT],
                output_names=names,
                dynamic_shapes=({0: "batch"},),  # names the dimension that capture left free
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors are private classes
        raise UntraceableError(f"The network has no translation to ONNX: {first_line(_root(error))}") from error
    if program is None:
        raise UntraceableError(f"torch {torch.__version__} returned no ONNX program.")
    _keep_apart(program.model.graph)
    got = program.model.opset_imports[""]
    if opset is not None and got != opset:
        raise UsageError(
            f"Opset {opset} cannot be had: asked for it, torch {torch.__version__} gives {got}.",
            hint=f"Ask for one from {got} to {onnx.defs.onnx_opset_version()}, or leave it to the exporter.",
        )
    return program


def _keep_apart(graph: Any) -> None:
    """Give a value within an ``onnx_ir.Graph`` another name where an output was given its own."""
    outputs = {id(value) for value in graph.outputs}
    names = {value.name for value in graph.outputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in names and id(value) not in outputs:
                value.name = f"{value.name}_within"


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
    if held_out := list(_held_out(provenance)):
        model.metadata_props["held_out"] = json.dumps(held_out)
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _held_out(provenance: Provenance) -> Iterator[dict[str, Any]]:
    """What a run held out of its data, so that the file is not measured with what it was trained on."""
    for record in provenance.history:
        if record.get("command") == "finetune" and record.get("val_split") is not None:
            about = {key: record[key] for key in ("val_split", "seed", "val_images", "val_digest") if key in record}
            yield {"data": digest_of(record["data"]), **about}


def _save(model: Any, path: Path, data: Path) -> None:
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=data.name if weights > _ONE_FILE_LIMIT else None)


def _reduce(draft: Path, data: Path, precision: Precision, calibration: Sequence[Tensor], *, slim: bool) -> None:
    if data.exists():
        raise UsageError(
            "The network is above 2 GB, where a file can only be of float32 and as it is.",
            hint="Leave out --half, --int8 and --simplify.",
        )
    if slim:
        simplify_file(draft)
    if precision != "float32":
        full = draft.with_name(f"{draft.stem}.full.onnx")
        os.replace(draft, full)
        reduce(full, draft, precision, calibration)
        full.unlink()


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"onnx.checker refuses the exported file: {error}") from error
