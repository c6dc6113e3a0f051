"""``sesurgeon export``: a model becomes a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from sesurgeon.cli.asked.calibrating import calibration_images
from sesurgeon.cli.asked.exporting import Format
from sesurgeon.cli.asked.finding import given_or_latest, latest_result
from sesurgeon.cli.asked.loading import load_model, note_random_weights, note_unknown_preprocessing
from sesurgeon.cli.asked.naming import output_for
from sesurgeon.cli.asked.options import Force, OptionalModel, OutputPath, Reading, Talking
from sesurgeon.cli.asked.selecting import parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import Output, reporting
from sesurgeon.cli.shown.exporting import folding_lines, onnx_table, pt2_table, weights_table
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sesurgeon.surgery import Folding


@spread
def export(
    model: OptionalModel = None,
    *,
    asked: Format,
    output: OutputPath = None,
    force: Force = False,
    reading: Reading,
    talking: Talking,
) -> None:
    """Export MODEL to one ONNX file, checked against PyTorch in onnxruntime; or to .pt2 or plain weights.

    The ONNX file has a dynamic batch size, and classes and preprocessing in its metadata. With `--plain` the factor of
    each gate is folded into the layer before it, which changes no bit of the outputs: an augmented `resnet50` becomes
    what timm calls `seresnet50`. Without a MODEL, the newest `runs/finetune/*/best.pt` or `best.pruned.pt` is
    taken, or else the newest `*.se.pt` or `*.pruned.pt`. A file whose outputs differ is not kept; for `--int8`, the
    share of labels that agree is shown.
    """
    with reporting(talking) as out:
        asked.check()
        name = given_or_latest(model, latest_result, out.note)
        path = output_for(name, output, asked.suffix)
        if name.endswith(".onnx"):
            raise UsageError(f"{name} is an exported file.", hint="Give the network that it was exported from.")
        check_writable(path, force=force)
        with out.working(f"Exporting {name}"):
            _check_path(path, asked, force=force)
            loaded = load_model(name, reading)
            table, data, folding = _write(loaded, path, asked, out, force=force)
        note_random_weights(out, name, reading)
        if asked.kind == "onnx":
            note_unknown_preprocessing(out, loaded)
        data = {"model": name} | data
        if folding is None:
            out.result(table, data)
        else:
            about = {"folded": folding.folded, "left": folding.left, "proof": folding.proof}
            out.result(Group(table, *folding_lines(folding)), data | about)
            if folding.left:
                out.note(
                    f"Warning: this is not a standard network: {len(folding.left)} of its gates keep their factor, "
                    "and code with plain gates would compute something else."
                )
        if others := data.get("left_out"):
            more = "" if asked.all_outputs else " --all-outputs writes those with a batch dimension."
            out.note(
                "Warning: the network has several outputs, and the file does not hold all of them. Left out: "
                f"{', '.join(others)}.{more}"
            )


def _check_path(path: Path, asked: Format, *, force: bool) -> None:
    from sesurgeon.export import check_onnx_path, check_plain_path, check_pt2_path

    if asked.kind == "pt2":
        check_pt2_path(path)
    elif asked.kind == "weights":
        check_plain_path(path)
    else:
        check_onnx_path(path, force=force)


def _write(
    model: nn.Module, path: Path, asked: Format, out: Output, *, force: bool
) -> tuple[Table, dict[str, Any], Folding | None]:
    """Write the file; return its table, the same as data, and what was folded if ``--plain`` was given."""
    from sesurgeon.export import export_onnx, export_plain, export_pt2
    from sesurgeon.surgery import fold

    if asked.kind == "weights":
        weights = export_plain(model, path, force=force)
        data = {"path": path, "tensors": weights.tensors, "size": weights.size}
        return weights_table(weights), data, weights.folding
    inputs = parse_inputs(asked.input_shape, model)
    if asked.kind == "pt2":
        of_pt2 = export_pt2(model, path, example_inputs=inputs, all_outputs=asked.all_outputs, force=force)
        return pt2_table(of_pt2), vars(of_pt2), None
    folding = fold(model) if asked.plain else None
    calibration: list[Tensor] = []
    comparison: list[Tensor] = []
    about_images: dict[str, Any] = {}
    if asked.calib is not None:
        calibration, comparison, about_images["skipped"] = calibration_images(model, asked.calib, asked.data_dir, out)
        inputs = next(iter(calibration), None)  # it has the size of the images
    report = export_onnx(
        model if folding is None else folding.model,
        path,
        opset=asked.opset,
        example_inputs=inputs,
        precision=asked.precision,
        calibration=calibration,
        compare_on=comparison,
        all_outputs=asked.all_outputs,
        simplify=asked.simplify,
        for_cpu=asked.for_cpu,
        force=force,
    )
    return onnx_table(report), vars(report) | about_images, folding
