"""``sesurgeon export``: a model becomes a file that other runtimes read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import filesize
from rich.table import Table

from sesurgeon.cli.console import reporting
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
from sesurgeon.files import check_writable

if TYPE_CHECKING:
    from sesurgeon.export import OnnxReport


def export(
    model: OptionalModel = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX, the one format so far.", show_default=False)] = True,
    output: OutputPath = None,
    opset: Annotated[
        int | None,
        typer.Option(min=1, help="Version of ONNX's operators; torch's own choice by default.", show_default=False),
    ] = None,
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
    """Write MODEL as one ONNX file, checked against PyTorch in onnxruntime.

    Its batch size is free, and its metadata holds classes and preprocessing. Without a MODEL the newest
    `runs/finetune/*/best.pt` is taken, or else the newest `*.se.pt`. A file whose outputs differ is not kept.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        name = given_or_latest(model, latest_trained, out)
        path = output or beside(name, ".onnx")
        check_writable(path, force=force)
        with out.working(f"Exporting {name}"):
            from sesurgeon.export import export_onnx

            loaded = load_model(
                name,
                arch=arch,
                model_kwargs=model_kwargs,
                num_classes=num_classes,
                pretrained=pretrained,
                trust_pickle=trust_pickle,
            )
            report = export_onnx(loaded, path, opset=opset, force=force)
        out.result(_table(report), {"model": name} | vars(report))


def _table(report: OnnxReport) -> Table:
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


def _shape(sizes: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(str(size) for size in sizes)})"
