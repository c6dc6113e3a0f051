"""``sesurgeon export``: a model becomes a file that other runtimes read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.calibrating import Calib, calibration_images
from sesurgeon.cli.asked.images import DataDir
from sesurgeon.cli.asked.latest import given_or_latest, latest_trained
from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.naming import check_is_another, output_for
from sesurgeon.cli.asked.options import Force, OptionalModel, OutputPath, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import Output, reporting
from sesurgeon.cli.shown.rendering import left_alone_lines
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.export import OnnxReport, Parity, PlainReport, Precision, Pt2Report
    from sesurgeon.surgery import Folding


Onnx = Annotated[
    bool, typer.Option("--onnx", help="As one ONNX file; so it is without --plain too.", show_default=False)
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="With plain gates, as timm's networks have them: a state dict (.pth, .pt or .safetensors), or with "
        "--onnx an ONNX file.",
        show_default=False,
    ),
]
Half = Annotated[bool, typer.Option("--half", help="ONNX with weights of 16 bits: half the size.", show_default=False)]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="ONNX with weights and activations of 8 bits; needs --calib.", show_default=False),
]
Simplify = Annotated[
    bool, typer.Option("--simplify", help="Let onnxslim take out of an ONNX file what need not be there.")
]
ForCpu = Annotated[
    bool,
    typer.Option(
        "--for-cpu", help="ONNX in the form that is fastest in onnxruntime on CPUs: more nodes, less time there."
    ),
]
Pt2 = Annotated[bool, typer.Option("--pt2", help="As a file for torch.export.load.", show_default=False)]
AllOutputs = Annotated[
    bool,
    typer.Option("--all-outputs", help="All outputs of a network that gives several; by default the first alone."),
]
Opset = Annotated[
    int | None,
    typer.Option(min=1, help="Version of ONNX's operators; torch's own choice by default.", show_default=False),
]


@dataclass(frozen=True)
class Format:
    """What a user asked for.

    Raises:
        UsageError: a combination that does not exist.
    """

    onnx: bool
    plain: bool
    half: bool
    int8: bool
    simplify: bool
    for_cpu: bool
    pt2: bool
    opset: int | None
    all_outputs: bool
    calib: str | None
    input_shape: list[str] | None

    def __post_init__(self) -> None:
        wanted = {"--onnx": self.onnx, "--half": self.half, "--int8": self.int8, "--simplify": self.simplify}
        wanted["--for-cpu"] = self.for_cpu
        asked = [name for name, given in wanted.items() if given]
        if self.pt2 and (asked or self.plain):
            others = ", ".join([*asked, *(["--plain"] if self.plain else [])])
            raise UsageError(f"--pt2 writes a file of its own kind, not of {others}.", hint="Run export once for each.")
        if self.half and self.int8:
            raise UsageError("--half and --int8 exclude each other.", hint="Run export once for each.")
        if self.for_cpu and self.precision != "float32":
            raise UsageError("--for-cpu is for float32, not for --half and --int8.", hint="Run export once for each.")
        if self.int8 != (self.calib is not None):
            raise UsageError(
                "--int8 needs --calib DATA, and --calib is for --int8: activations get their ranges from images.",
                hint="Give both, or leave both out.",
            )
        if self.opset is not None and not self.as_onnx:
            raise UsageError("--opset is for ONNX files.", hint="Leave it out, or ask for an ONNX file.")
        if self.all_outputs and not (self.as_onnx or self.pt2):
            raise UsageError("--all-outputs is for ONNX and .pt2 files.", hint="Leave it out, or ask for one of them.")
        if self.input_shape and not (self.as_onnx or self.pt2):
            raise UsageError("--input-shape is for ONNX and .pt2 files.", hint="Give --onnx too, or leave it out.")
        if self.input_shape and self.calib is not None:
            raise UsageError("--input-shape is not for --calib, whose images have a size.", hint="Leave one out.")

    @property
    def as_onnx(self) -> bool:
        asked = self.onnx or self.half or self.int8 or self.simplify or self.for_cpu
        return asked or not (self.plain or self.pt2)

    @property
    def precision(self) -> Precision:
        return "float16" if self.half else "int8" if self.int8 else "float32"

    @property
    def suffix(self) -> str:
        """Of a file whose name the user did not say."""
        if self.pt2:
            return ".pt2"
        kind = ".half" if self.half else ".int8" if self.int8 else ".cpu" if self.for_cpu else ""
        return (".plain" if self.plain else "") + kind + (".onnx" if self.as_onnx else ".pth")


@spread
def export(
    model: OptionalModel = None,
    *,
    onnx: Onnx = False,
    plain: Plain = False,
    half: Half = False,
    int8: Int8 = False,
    calib: Calib = None,
    data_dir: DataDir = "data",
    simplify: Simplify = False,
    for_cpu: ForCpu = False,
    pt2: Pt2 = False,
    output: OutputPath = None,
    opset: Opset = None,
    all_outputs: AllOutputs = False,
    force: Force = False,
    input_shape: InputShape = None,
    reading: Reading,
    talking: Talking,
) -> None:
    """Write MODEL as one ONNX file, checked against PyTorch in onnxruntime; or its weights for other code.

    The ONNX file's batch size is free, and its metadata holds classes and preprocessing. With `--plain` the factor of
    each gate goes into the layer before it, which changes no output by a single bit: an augmented `resnet50` becomes
    what timm calls `seresnet50`. Without a MODEL the newest `runs/finetune/*/best.pt` is taken, or else the newest
    `*.se.pt`. A file whose outputs differ is not kept; of `--int8` it is said how many labels stay the same.
    """
    with reporting(talking) as out:
        asked = Format(onnx, plain, half, int8, simplify, for_cpu, pt2, opset, all_outputs, calib, input_shape)
        if calib is None and data_dir != "data":
            raise UsageError("--data-dir is for --calib.", hint="Give --calib too, or leave it out.")
        name = given_or_latest(model, latest_trained, out.note)
        path = output_for(name, output, asked.suffix)
        if name.endswith(".onnx"):
            raise UsageError(f"{name} is exported already.", hint="Give the network that it came from.")
        check_is_another(path, name)
        check_writable(path, force=force)
        with out.working(f"Exporting {name}"):
            from sesurgeon.export import check_onnx_path, check_plain_path, check_pt2_path

            if pt2:
                check_pt2_path(path)
            elif asked.as_onnx:
                check_onnx_path(path, force=force)
            else:
                check_plain_path(path)
            loaded = load_model(name, reading)
            table, data, folding = _write(loaded, path, asked, data_dir, out, force=force)
        if folding is None:
            out.result(table, {"model": name} | data)
        else:
            out.result(Group(table, *_folding_lines(folding)), {"model": name} | data | _folding_data(folding))
            _warn(out, folding)
        if others := data.get("left_out"):
            out.note(
                "Warning: the network gives several outputs, and the file has not got all of them. Left out: "
                f"{', '.join(others)}.{'' if all_outputs else ' --all-outputs writes those that have a batch.'}"
            )


def _write(
    model: nn.Module, path: Path, asked: Format, data_dir: str, out: Output, *, force: bool
) -> tuple[Table, dict[str, Any], Folding | None]:
    """Write the file; what is shown of it, what is told of it, and what was folded if that was asked for."""
    from sesurgeon.export import export_onnx, export_plain, export_pt2
    from sesurgeon.surgery import fold

    inputs = parse_inputs(asked.input_shape, model)
    if asked.pt2:
        of_pt2 = export_pt2(model, path, example_inputs=inputs, all_outputs=asked.all_outputs, force=force)
        return _pt2_table(of_pt2), vars(of_pt2), None
    if not asked.as_onnx:
        written = export_plain(model, path, force=force)
        data = {"path": path, "tensors": written.tensors, "size": written.size}
        return _plain_table(written), data, written.folding
    folding = fold(model) if asked.plain else None
    found = None if asked.calib is None else calibration_images(model, asked.calib, data_dir, out)
    calibration, comparison = found or ([], [])
    report = export_onnx(
        model if folding is None else folding.model,
        path,
        opset=asked.opset,
        example_inputs=calibration[0] if calibration else inputs,  # of the size that images have
        precision=asked.precision,
        calibration=calibration,
        compare_on=comparison,
        all_outputs=asked.all_outputs,
        simplify=asked.simplify,
        for_cpu=asked.for_cpu,
        force=force,
    )
    return _onnx_table(report), vars(report), folding


def _onnx_table(report: OnnxReport) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(report.path))
    if report.data is not None:
        table.add_row("its weights", str(report.data))
    table.add_row("size", filesize.decimal(report.size))
    table.add_row("opset", str(report.opset))
    table.add_row("precision", report.precision)
    table.add_row("input", _shape(report.input_shape))
    for name, shape in report.outputs.items():
        table.add_row(name, _shape(shape))
    _add_parity(table, "onnxruntime against PyTorch", report.parity, on_images=report.precision == "int8")
    return table


def _pt2_table(report: Pt2Report) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(report.path))
    table.add_row("size", filesize.decimal(report.size))
    table.add_row("input", _shape(report.input_shape))
    for name, shape in report.outputs.items():
        table.add_row(name, _shape(shape))
    _add_parity(table, "the file against the model", report.parity)
    return table


def _add_parity(table: Table, title: str, parity: Parity | None, *, on_images: bool = False) -> None:
    if parity is None:
        return
    noise = f"at batch {' and '.join(map(str, parity.batch_sizes))}"
    on = f"on {counted(sum(parity.batch_sizes), 'image')}" if on_images else noise
    allowed = f" (allowed: {parity.tolerance:g})" if parity.tolerance < math.inf else ""
    table.add_row(title, on)
    table.add_row("  largest absolute difference", f"{parity.max_abs:.3g}")
    table.add_row("  over the spread of outputs", f"{parity.max_rel:.3g}{allowed}")
    table.add_row("  top-1 agreement", in_per_cent(parity.top1_agreement, ".1f"))


def _plain_table(report: PlainReport) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(report.path))
    table.add_row("size", filesize.decimal(report.size))
    table.add_row("tensors", str(report.tensors))
    return table


def _folding_lines(folding: Folding) -> list[Text]:
    if not folding.folded and not folding.left:
        return [Text("Nothing had to be folded: no gate in it has a factor.")]
    lines = [Text(f"Folded: {len(folding.folded)} of {counted(len(folding.folded) + len(folding.left), 'block')}.")]
    if folding.proof is not None:
        lines.append(Text(f"Proof: {folding.proof}.", style="green"))
    return [*lines, *left_alone_lines(folding.left)]


def _folding_data(folding: Folding) -> dict[str, Any]:
    return {"folded": folding.folded, "left": folding.left, "proof": folding.proof}


def _warn(out: Output, folding: Folding) -> None:
    """Say when the result is not what was asked for."""
    if folding.left:
        out.note(
            f"Warning: this is no standard network: the factor stays in {len(folding.left)} of its gates, and code "
            "with plain gates would compute something else."
        )


def _shape(sizes: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(str(size) for size in sizes)})"
