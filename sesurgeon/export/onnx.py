"""An ONNX file with a dynamic batch size, compared with PyTorch before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.export.blocked import for_blocked_layout
from sesurgeon.export.inputs import Inputs, described
from sesurgeon.export.onnx_files import check_onnx_path, onnx_draft
from sesurgeon.export.onnx_metadata import write_metadata
from sesurgeon.export.onnx_program import to_onnx
from sesurgeon.export.parity import Parity, compare_all
from sesurgeon.export.precision import TOLERANCES, Precision, reduce
from sesurgeon.export.precision import simplify as simplify_file
from sesurgeon.export.prepare import prepare, shapes_of
from sesurgeon.export.sessions import as_arrays, open_session
from sesurgeon.export.trials import Trial, trials_on, usual_trials
from sesurgeon.files import StrPath, target_of
from sesurgeon.scalars import is_whole

Batch: TypeAlias = Tensor | Sequence[Tensor]
"""Images (N, C, H, W), or whatever the network takes, alone or followed by labels."""

# a protobuf message must be smaller than 2 GiB; the rest is room for the graph itself
_ONE_FILE_LIMIT = 2**31 - 2**24


@dataclass(frozen=True)
class OnnxReport:
    """What was written.

    Attributes:
        path: the file.
        data: above 2 GB, the file with its weights, which must stay beside it; else None.
        opset: the version of ONNX's operators in the file.
        inputs: the shape of each input for one image, by name; ``input`` if there is only one. Batch sizes are dynamic.
        outputs: the same of each output; ``logits`` if there is only one.
        left_out: the network's other outputs, by key or number, which the file does not have.
        size: bytes on disk, external data included.
        precision: of its weights.
        parity: how far onnxruntime is from PyTorch; None without ``verify``.
    """

    path: Path
    data: Path | None
    opset: int
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    size: int
    precision: Precision
    parity: Parity | None


def export_onnx(
    model: nn.Module,
    path: StrPath,
    *,
    opset: int | None = None,
    example_inputs: Tensor | tuple[Any, ...] | None = None,
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

    The input is ``input`` with shape (batch, channels, height, width), the output ``logits``, both float32. Several
    inputs are called like the parameters of forward; whole numbers and masks among them keep their type. Above 2 GB
    the weights are written beside the file to ``<path>.data``, or to ``<path>.2.data`` if the weights of a file that is
    replaced are there. The metadata holds ``sesurgeon_version`` and, if known, ``classes`` and ``preprocessing`` as
    JSON, and ``multi_label`` if images may have several. ``model`` itself stays as it is: a copy is exported, with the
    factors of its gates folded into the layers before them where that is exact.

    Args:
        model: any network that takes tensors with a batch; if it has several outputs, the first is exported by default.
        path: the file; nothing is written there unless all checks pass.
        opset: version of ONNX's operators; by default the exporter's own choice.
        example_inputs: images, or a tuple of what forward takes; by default :func:`sesurgeon.surgery.known_inputs`.
        precision: of the weights: float32; float16, half the size; int8, a quarter, and faster on many processors.
        calibration: for int8: batches of images, preprocessed for the model; a few hundred images are enough. Labels
            after the inputs, as a DataLoader gives them, are ignored.
        compare_on: more batches, of the same form, on which the file is compared with PyTorch.
        all_outputs: export all outputs that are tensors with a batch dimension, named by their keys or ``output_1``, ….
        simplify: remove redundant nodes with onnxslim.
        for_cpu: write float32 for onnxruntime's CPU kernels, which are slow at scaling channels: more nodes, but less
            time there (see :mod:`sesurgeon.export.blocked`).
        force: replace an existing file, and the weights beside it.
        verify: compare with PyTorch in onnxruntime: at batch sizes 1 and 4, on random images (or on the example's, if
            the network gives NaN for random ones), on ``compare_on`` and on ``example_inputs``. For int8, whose ranges
            are those of real images, only on ``compare_on``, or else on ``calibration``.

    Raises:
        OutputError: ``path`` cannot be written: see :func:`check_onnx_path`, or the disk is full.
        UsageError: ``precision`` or ``opset`` is not available, ``example_inputs`` are not tensors with a batch,
            batches are not like them, int8 has no ``calibration``, or a precision other than float32 is asked for
            together with ``for_cpu`` or for a file above 2 GB.
        UntraceableError: the network cannot be exported, or works for one batch size only.
        VerificationError: onnxruntime does not compute what PyTorch computes, folding changed the outputs, or the
            network's outputs are not finite.
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
    prepared = prepare(model, example_inputs, every_output=all_outputs)
    ranges_from = [_inputs_of("calibration", batch, prepared.inputs) for batch in calibration]
    compared_on = [_inputs_of("compare_on", batch, prepared.inputs) for batch in compare_on]
    program = to_onnx(prepared, opset)
    if for_cpu:
        for_blocked_layout(program.model)
    write_metadata(program.model, prepared.provenance)

    with onnx_draft(path, force=force) as (draft, data):
        _save(program.model, draft, data)
        if simplify or precision != "float32":
            _reduce(draft, data, precision, ranges_from, slim=simplify)
        _check(draft)
        parity = None
        if verify:
            if precision == "int8":
                trials = trials_on(prepared.network, compared_on or ranges_from)
            else:
                trials = [*usual_trials(prepared), *trials_on(prepared.network, compared_on)]
                if example_inputs is not None:
                    trials.append(Trial(prepared.inputs, tuple(prepared.outputs.values())))
            parity = _parity(draft, trials, TOLERANCES[precision])
        size = sum(file.stat().st_size for file in draft.parent.iterdir())
        beside = target_of(path).with_name(data.name) if data.exists() else None

    return OnnxReport(
        path=path,
        data=beside,
        opset=program.model.opset_imports[""],
        inputs=shapes_of(prepared.inputs),
        outputs=shapes_of(prepared.outputs),
        left_out=prepared.left_out,
        size=size,
        precision=precision,
        parity=parity,
    )


def _check_choices(precision: object, opset: object) -> None:
    if precision not in get_args(Precision):
        raise UsageError(f"precision (={precision!r}) must be one of: {', '.join(get_args(Precision))}.")
    if not (opset is None or is_whole(opset)):
        raise UsageError(f"opset (={opset!r}) must be a whole number.")


def _inputs_of(argument: str, batch: Batch, like: Inputs) -> Inputs:
    """What the network takes of a batch, without labels: as many tensors as ``like``, each with as many dimensions."""
    values = [batch] if isinstance(batch, Tensor) else list(batch)[: len(like)] if isinstance(batch, Sequence) else []
    dims = [expected.ndim for expected in like.values()]
    if [value.ndim if isinstance(value, Tensor) else None for value in values] != dims:
        given = ", ".join(described(value) for value in values) or f"of type {type(batch).__name__}"
        raise UsageError(
            f"{argument} must be batches of what the network takes, tensors of {' and '.join(map(str, dims))} "
            f"dimensions; one is {given}.",
            hint="Give them as a list, or as a DataLoader; labels may follow.",
        )
    return {name: value.detach().to(like[name]) for name, value in zip(like, values, strict=True)}


def _save(model: Any, path: Path, data: Path) -> None:
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=data.name if weights > _ONE_FILE_LIMIT else None)


def _reduce(draft: Path, data: Path, precision: Precision, calibration: Sequence[Inputs], *, slim: bool) -> None:
    if data.exists():
        raise UsageError(
            "The network is above 2 GB; such a file can only be written in float32 and not simplified.",
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


def _parity(path: Path, trials: Sequence[Trial], tolerance: float) -> Parity:
    """Run the file in onnxruntime on the CPU; it must compute what PyTorch computed."""
    try:
        session = open_session(path)
        got = [tuple(map(torch.from_numpy, session.run(None, as_arrays(trial.inputs)))) for trial in trials]
    except Exception as error:  # onnxruntime's errors share no narrower base class
        raise VerificationError(f"onnxruntime cannot run the exported file: {error}") from error
    parity = compare_all([trial.outputs for trial in trials], got, tolerance)
    parity.require("onnxruntime's")
    return parity
