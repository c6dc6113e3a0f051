"""How an exported file looks on a terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich import filesize
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.shown.rendering import left_alone_lines
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from sesurgeon.export import OnnxReport, Parity, PlainReport, Pt2Report
    from sesurgeon.surgery import Folding


def onnx_table(report: OnnxReport) -> Table:
    """The file, its input and outputs, and how far they are from PyTorch's."""
    table = _file_table(report.path, report.size, weights=report.data)
    table.add_row("opset", str(report.opset))
    table.add_row("precision", report.precision)
    _add_shapes(table, report)
    if report.parity is not None:
        images = counted(sum(report.parity.batch_sizes), "image")
        on = f"on {images}" if report.precision == "int8" else _at_batches(report.parity)
        _add_parity(table, "onnxruntime against PyTorch", on, report.parity)
    return table


def pt2_table(report: Pt2Report) -> Table:
    """The file, its input and outputs, and how far they are from the module's."""
    table = _file_table(report.path, report.size)
    _add_shapes(table, report)
    if report.parity is not None:
        _add_parity(table, "the file against the model", _at_batches(report.parity), report.parity)
    return table


def weights_table(report: PlainReport) -> Table:
    """The file, and how many tensors are in it."""
    table = _file_table(report.path, report.size)
    table.add_row("tensors", str(report.tensors))
    return table


def folding_lines(folding: Folding) -> list[Text]:
    """How many gates were folded, the proof, and which were left."""
    if not folding.folded and not folding.left:
        return [Text("Nothing had to be folded: no gate in it has a factor.")]
    lines = [Text(f"Folded: {len(folding.folded)} of {counted(len(folding.folded) + len(folding.left), 'block')}.")]
    if folding.proof is not None:
        lines.append(Text(f"Proof: {folding.proof}.", style="green"))
    return [*lines, *left_alone_lines(folding.left)]


def _file_table(path: Path, size: int, *, weights: Path | None = None) -> Table:
    table = Table(show_header=False)
    table.add_row("file", str(path))
    if weights is not None:
        table.add_row("its weights", str(weights))
    table.add_row("size", filesize.decimal(size))
    return table


def _add_shapes(table: Table, report: OnnxReport | Pt2Report) -> None:
    for name, shape in {**report.inputs, **report.outputs}.items():
        table.add_row(name, f"({', '.join(('batch', *map(str, shape)))})")


def _at_batches(parity: Parity) -> str:
    return f"at batch {' and '.join(map(str, parity.batch_sizes))}"


def _add_parity(table: Table, title: str, on: str, parity: Parity) -> None:
    allowed = f" (allowed: {parity.tolerance:g})" if parity.tolerance < math.inf else ""
    table.add_row(title, on)
    table.add_row("  largest absolute difference", f"{parity.max_abs:.3g}")
    table.add_row("  over the spread of outputs", f"{parity.max_rel:.3g}{allowed}")
    table.add_row("  top-1 agreement", in_per_cent(parity.top1_agreement, ".1f"))
