"""``sesurgeon export``: a model becomes a file that other runtimes read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.console import Output, reporting
from sesurgeon.cli.latest import given_or_latest, latest_trained
from sesurgeon.cli.loading import load_model
from sesurgeon.cli.naming import beside
from sesurgeon.cli.options import (
    Arch,
    Debug,
    Force,
    Json,
    ModelKwargs,
    NumClasses,
    OptionalModel,
    OutputPath,
    Pretrained,
    Quiet,
    TrustPickle,
)
from sesurgeon.cli.rendering import left_alone_lines
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable

if TYPE_CHECKING:
    from sesurgeon.export import OnnxReport, PlainReport
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
Opset = Annotated[
    int | None,
    typer.Option(min=1, help="Version of ONNX's operators; torch's own choice by default.", show_default=False),
]


def export(
    model: OptionalModel = None,
    onnx: Onnx = False,
    plain: Plain = False,
    output: OutputPath = None,
    opset: Opset = None,
    force: Force = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    num_classes: NumClasses = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write MODEL as one ONNX file, checked against PyTorch in onnxruntime; or its weights for other code.

    The ONNX file's batch size is free, and its metadata holds classes and preprocessing. With `--plain` the factor of
    each gate goes into the layer before it, which changes no output by a single bit: an augmented `resnet50` becomes
    what timm calls `seresnet50`. Without a MODEL the newest `runs/finetune/*/best.pt` is taken, or else the newest
    `*.se.pt`. A file whose outputs differ is not kept.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        as_onnx = onnx or not plain
        if opset is not None and not as_onnx:
            raise UsageError("--opset is for ONNX files.", hint="Give --onnx too, or leave it out.")
        name = given_or_latest(model, latest_trained, out)
        path = output or beside(name, (".plain" if plain else "") + (".onnx" if as_onnx else ".pth"))
        check_writable(path, force=force)
        with out.working(f"Exporting {name}"):
            from sesurgeon.export import check_plain_path, export_onnx, export_plain
            from sesurgeon.surgery import fold

            if not as_onnx:
                check_plain_path(path)
            loaded = load_model(
                name,
                arch=arch,
                model_kwargs=model_kwargs,
                num_classes=num_classes,
                pretrained=pretrained,
                trust_pickle=trust_pickle,
            )
            folding: Folding | None
            if as_onnx:
                folding = fold(loaded) if plain else None
                report = export_onnx(loaded if folding is None else folding.model, path, opset=opset, force=force)
                table, data = _onnx_table(report), vars(report)
            else:
                written = export_plain(loaded, path, force=force)
                folding = written.folding
                table, data = _plain_table(written), {"path": path, "tensors": written.tensors, "size": written.size}
        if folding is None:
            out.result(table, {"model": name} | data)
        else:
            out.result(Group(table, *_folding_lines(folding)), {"model": name} | data | _folding_data(folding))
            _warn(out, folding)


def _onnx_table(report: OnnxReport) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(report.path))
    table.add_row("size", filesize.decimal(report.size))
    table.add_row("opset", str(report.opset))
    table.add_row("input", _shape(report.input_shape))
    table.add_row("logits", _shape(report.output_shape))
    if report.parity is not None:
        parity = report.parity
        batches = " and ".join(str(size) for size in parity.batch_sizes)
        table.add_row("onnxruntime against PyTorch", f"at batch {batches}")
        table.add_row("  largest absolute difference", f"{parity.max_abs:.3g}")
        table.add_row("  over the largest output", f"{parity.max_rel:.3g} (allowed: {parity.tolerance:g})")
        table.add_row("  top-1 agreement", f"{parity.top1_agreement:.0%}")
    return table


def _plain_table(report: PlainReport) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(report.path))
    table.add_row("size", filesize.decimal(report.size))
    table.add_row("tensors", str(report.tensors))
    return table


def _folding_lines(folding: Folding) -> list[Text]:
    if not folding.folded and not folding.left:
        return [Text("Nothing had to be folded: no gate in it has a factor.")]
    lines = [Text(f"Folded: {len(folding.folded)} of {len(folding.folded) + len(folding.left)} blocks.")]
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
