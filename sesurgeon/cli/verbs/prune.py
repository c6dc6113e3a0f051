"""``sesurgeon prune``: remove blocks that do the same for every image."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.finding import given_or_latest, latest_trained
from sesurgeon.cli.asked.images import DataSpec, Opening, Passing
from sesurgeon.cli.asked.loading import flags_to_load, load_model
from sesurgeon.cli.asked.measuring import open_images
from sesurgeon.cli.asked.naming import output_for, shown
from sesurgeon.cli.asked.options import Force, OptionalModel, OutputPath, Reading, Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.images import described, images_data, note_few
from sesurgeon.cli.shown.rendering import left_alone_lines
from sesurgeon.cli.shown.scoring import per_cent, score_label
from sesurgeon.cli.shown.timing import pass_times
from sesurgeon.words import counted

if TYPE_CHECKING:
    from sesurgeon.finetune import Data
    from sesurgeon.gates import Pruning, PruningStep

MaxDrop = Annotated[
    float, typer.Option(min=0, help="How far top-1 (or mAP, if multi-label) may fall in total, in percentage points.")
]
Tolerance = Annotated[
    float,
    typer.Option(
        min=0,
        help="A gate counts as constant if no channel's standard deviation over images and positions is above this. "
        "One that no layer can absorb is removed if it is no further than this from 1.",
    ),
]
Timed = Annotated[bool, typer.Option("--latency/--no-latency", help="Time a one-image pass before and after each.")]


@spread
def prune(
    data: DataSpec,
    model: OptionalModel = None,
    *,
    max_drop: MaxDrop = 0.1,
    tolerance: Tolerance = 0.01,
    latency: Timed = True,
    output: OutputPath = None,
    force: Force = False,
    passing: Passing,
    opening: Opening,
    reading: Reading,
    talking: Talking,
) -> None:
    """Remove the blocks of MODEL that do the same for every image of DATA, as long as it stays as good.

    The constants of their gates are folded into the layer before or after the block; a gate that is 1 is simply
    removed. The block whose gate varies least goes first, and the network is evaluated on the validation images after
    each step. The result is written to MODEL.pruned.pt; if no block can be removed, nothing is written, and that is
    not an error.
    """
    with reporting(talking) as out:
        name = given_or_latest(model, latest_trained, out.note)
        with out.working(f"Loading {name}"):
            from sesurgeon.cli.shown.watching import Watcher
            from sesurgeon.gates import prune, require_blocks
            from sesurgeon.surgery import check_checkpoint_path, save

            path = output_for(name, output, ".pruned.pt")
            check_checkpoint_path(path, force=force)
            loaded = load_model(name, reading)
            require_blocks(loaded)
        with out.progress() as progress:
            watcher = Watcher(out, progress)
            images = open_images(out, loaded, data, opening, workers=passing.workers, on_progress=watcher)
            note_few(out, len(images.val))
            found = prune(
                loaded,
                images,
                max_drop=max_drop,
                tolerance=tolerance,
                timing=pass_times if latency else None,
                **vars(passing),
                on_progress=watcher,
                on_step=lambda step: out.note(_told(step, score_label("map" if images.multi_label else "top1"))),
            )
        written = path if found.removed else None
        if written is not None:
            save(found.model, written, force=force)
        flags = flags_to_load(found.model, reading)
        title = Text(f"{name} on {described(images)}, {counted(found.images, 'image')}", style="bold")
        last = (
            Text(f"Written: {shown(written)}\nNext:    sesurgeon export {shlex.quote(shown(written))}{flags} --onnx")
            if written
            else Text("No block was taken out, and nothing was written.")
        )
        body = Group(title, *_step_table(found), *_outcome(found, max_drop, tolerance), last)
        out.result(body, _data(name, images, found, max_drop, tolerance, written))


def _told(step: PruningStep, metric: str) -> str:
    outcome = "is gone" if step.accepted else "stays"
    return f"{step.block} (spread {step.spread:.5f}) {outcome}: {metric} {step.before:.2f} → {per_cent(step.after)}"


def _step_table(found: Pruning) -> list[Table]:
    if not found.steps:
        return []
    table = Table()
    table.add_column("block", overflow="fold")
    for column in ("spread", "constants"):
        table.add_column(column, justify="right")
    table.add_column("folded into", overflow="fold")
    table.add_column(score_label(found.metric), justify="right")
    table.add_column("ms per pass", justify="right")
    table.add_column("")
    for step in found.steps:
        table.add_row(
            step.block,
            f"{step.spread:.5f}",
            _constants(step),
            ", ".join(step.tensors) or "nothing",
            f"{step.before:.2f} → {per_cent(step.after)}",
            "-" if step.ms_before is None else f"{step.ms_before:.2f} → {step.ms_after:.2f}",
            "gone" if step.accepted else "too much: stays",
        )
    return [table]


def _constants(step: PruningStep) -> str:
    if step.smallest == step.largest:
        return f"{step.smallest:.4g}"
    return f"{step.smallest:.4f} to {step.largest:.4f}"


def _outcome(found: Pruning, max_drop: float, tolerance: float) -> list[Text]:
    lines = []
    if found.removed:
        change = f"{score_label(found.metric)} {found.before:.2f} → {found.after:.2f} %"
        time = "" if found.ms_before is None else f", {found.ms_before:.2f} → {found.ms_after:.2f} ms a pass"
        lines.append(Text(f"{counted(len(found.removed), 'block')} taken out: {change}{time}.", style="green"))
    for step in found.steps:
        if not step.accepted:
            lines.append(Text(f"Removing {step.block} would cost more than {max_drop:g} points.", style="yellow"))
    if found.untried:
        lines.append(Text(f"Not tried after that: {', '.join(found.untried)}."))
    if found.live:
        named = ", ".join(f"{path} ({spread:.4f})" for path, spread in found.live.items())
        words = f"Gates that depend on the image or the place, with a channel whose spread is above {tolerance:g}"
        lines.append(Text(f"{words}: {named}."))
    return [*lines, *left_alone_lines(found.left)]


def _data(
    name: str, data: Data, found: Pruning, max_drop: float, tolerance: float, written: Path | None
) -> dict[str, Any]:
    return {
        "model": name,
        **images_data(data),
        "images": found.images,
        "metric": found.metric,
        "max_drop": max_drop,
        "tolerance": tolerance,
        "before": found.before,
        "after": found.after,
        "ms_before": found.ms_before,
        "ms_after": found.ms_after,
        "removed": found.removed,
        "steps": found.steps,
        "untried": found.untried,
        "live": found.live,
        "left": found.left,
        "output": written,
    }
