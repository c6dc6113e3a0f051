"""``sesurgeon demo``: the whole pipeline on data that are included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.options import Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.rendering import count, share
from sesurgeon.cli.shown.scoring import number, per_cent

if TYPE_CHECKING:
    from sesurgeon.demo import DemoResult


@spread
def demo(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new or empty folder.")] = Path(
        "sesurgeon-demo"
    ),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the demo's files in a folder that is not empty.")
    ] = False,
    talking: Talking,
) -> None:
    """Run the whole pipeline on real handwritten digits, in about a minute, offline and without a GPU.

    This trains a small network, then does what you would do with your own: `add-se`, `evaluate`, `finetune`,
    `evaluate` and `export --onnx`, and runs the file in onnxruntime. All files stay in the folder.
    """
    with reporting(talking) as out:
        with out.working("Starting"):
            from sesurgeon.cli.shown.narrating import Narrator
            from sesurgeon.demo import DemoSettings, run_demo

            settings = DemoSettings()
        with out.progress() as progress:
            narrator = Narrator(out, progress, epochs=settings.epochs)
            result = run_demo(output, settings, force=force, on_progress=narrator)
        out.note("")
        out.result(_rendered(result), _data(result))


def _rendered(result: DemoResult) -> Group:
    from sesurgeon.demo import by_hand

    images = result.base.images
    title = f"What was measured, on {images:,} held-out digits (one digit is {100 / images:.2f} points)"
    scores = Table()
    scores.add_column("")
    scores.add_column("top-1", justify="right")
    scores.add_column("loss", justify="right")
    scores.add_column("file", overflow="fold")
    scores.add_column("", overflow="fold")
    folder, best = result.folder, result.run.best_row
    chosen = f"epoch {best.epoch + 1} of {result.settings.epochs}, the best on these digits"
    if best.epoch < 0:
        chosen = "no epoch was better than the state before"
    differ = result.other_labels
    for label, found, file, note in (
        ("trained", result.base, "digits.pt", ""),
        ("after surgery", result.augmented, "digits.se.pt", "each label and loss the same, to the last bit"),
        ("after fine-tuning", result.tuned, str(result.run.best.relative_to(folder)), chosen),
        (
            "in onnxruntime",
            result.onnx,
            result.report.path.name,
            "each label as in PyTorch" if not differ else f"{differ:,} labels differ from PyTorch's",
        ),
    ):
        scores.add_row(label, per_cent(found.top1), number(found.loss), file, note)
    before, after, parity = result.before, result.after, result.report.parity
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("MACs per image", before.macs, after.macs),
    ):
        facts.add_row(label, f"{count(old)} → {count(new)} (+{share(new - old, old)})")
    facts.add_row("surgery", str(result.surgery.proof))
    if parity is not None:
        facts.add_row("ONNX parity", f"largest difference {parity.max_abs:.2g}, {parity.max_rel:.2g} of the spread")
    facts.add_row("time", f"{result.seconds:.0f} seconds")
    facts.add_row("files", f"{folder}/")
    hand = [Text(f"  {command}") for command in by_hand(folder, result.settings)]
    return Group(Text(title, style="bold"), scores, facts, Text("\nThe same by hand:"), *hand, Text(_YOURS))


_YOURS = """
With a network and images of your own:
  sesurgeon add-se model.pt
  sesurgeon finetune --data ./photos
  sesurgeon evaluate --data ./photos
  sesurgeon export --onnx"""


def _data(result: DemoResult) -> dict[str, Any]:
    from sesurgeon.demo import by_hand

    stages = {"base": result.base, "augmented": result.augmented, "finetuned": result.tuned, "onnx": result.onnx}
    return {
        "folder": result.folder,
        "images": result.base.images,
        "scores": {name: {"top1": found.top1, "loss": found.loss} for name, found in stages.items()},
        "labels_that_onnx_changed": result.other_labels,
        "blocks": len(result.surgery.plan.entries),
        "before": result.before,
        "after": result.after,
        "proof": result.surgery.proof,
        "best_epoch": result.run.best_row,
        "run": result.run.folder,
        "onnx": result.report,
        "seconds": result.seconds,
        "by_hand": by_hand(result.folder, result.settings),
    }
