"""``sesurgeon gates``: what did the gates learn?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.finding import given_or_latest, latest_result
from sesurgeon.cli.asked.images import DataSpec, Opening, Passing
from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.measuring import open_images
from sesurgeon.cli.asked.options import Force, OptionalModel, Reading, Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.images import described, images_data, note_few
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from sesurgeon.finetune import Data
    from sesurgeon.gates import GateStatistics, GateStudy

Report = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="REPORT", help="Folder for plots (PNG) and tables (CSV).", show_default=False
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,…",
        help='Classes to plot ("A,B" in quotes is one name); by default four, spread over all.',
        show_default=False,
    ),
]

_LEGEND = (
    "Spread: the standard deviation over images (averaged over channels, and of the channel that varies most), over "
    "class means, and over channels. Near: the share of channels whose mean is within 0.1 of 0, 1 or the ceiling."
)
_VERDICTS = {"open": "1 for all", "constant": "constant", "live": "live"}


@spread
def gates(
    data: DataSpec,
    model: OptionalModel = None,
    *,
    classes: Classes = None,
    output: Report = None,
    force: Force = False,
    passing: Passing,
    opening: Opening,
    reading: Reading,
    talking: Talking,
) -> None:
    """Show how the gates of MODEL respond to the validation images of DATA; with -o, plot it.

    For each gate: the mean of its factors; how much they vary over images (on average, and in the channel that varies
    most), over class means and over channels; and how many channels are near 0, near 1 and near the ceiling (within
    0.1). Blocks that do nothing are listed. The images, and the MODEL if none is given, are chosen as in `evaluate`.
    If the images are not in class folders that MODEL knows, nothing is shown by class.
    """
    with reporting(talking) as out:
        name = given_or_latest(model, latest_result, out.note)
        with out.working(f"Loading {name}"):
            from sesurgeon.cli.shown.watching import Watcher
            from sesurgeon.finetune.scoring.evaluate import lacks_labels
            from sesurgeon.gates import check_report, require_blocks, study_gates, write_gate_report

            loaded = load_model(name, reading)
            require_blocks(loaded)
        if output is not None:
            check_report(output, force=force)
        with out.progress() as progress:
            watcher = Watcher(out, progress)
            unlabelled = lacks_labels(loaded, data)
            images = open_images(
                out, loaded, data, opening, workers=passing.workers, on_progress=watcher, unlabelled=unlabelled
            )
            if unlabelled:
                out.note(f"The images of {data} have no labels that {name} knows: nothing is shown by class.")
            study = study_gates(
                loaded,
                images,
                classes=None if classes is None else named_classes(classes, images.classes),
                **vars(passing),
                on_progress=watcher,
            )
        note_few(out, study.images)
        files = () if output is None else write_gate_report(study, output, force=force)
        title = Text(f"{name} on {described(images)}, {counted(study.images, 'image')}", style="bold")
        written = [Text(f"Written: {', '.join(map(str, files))}")] if files else []
        out.result(
            Group(title, _gate_table(study.gates), Text(_LEGEND, style="dim"), *_verdicts(study), *written),
            _data(name, images, study, files),
        )


def named_classes(text: str, known: Sequence[str]) -> list[str]:
    """The names in ``cat,dog``; ``"a,b"`` is one name, and spaces around a name count only if a class has them."""
    names = [text] if text in known else next(csv.reader([text])) or [""]
    if any(name not in known for name in names):
        names = next(csv.reader([text], skipinitialspace=True)) or [""]
    return [name if name in known else name.strip() for name in names]


def _gate_table(gates: tuple[GateStatistics, ...]) -> Table:
    """A row for each gate, in about 80 characters."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\ngate", overflow="fold")
    for title in ("\nmean", "spread:\nimages", "\nlargest", "\nclasses", "\nchannels", "near:\n0", "\n1", "\nceiling"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("\ngate is", no_wrap=True)
    for gate in gates:
        spreads = (gate.image_spread, gate.largest_spread, gate.class_spread, gate.channel_spread)
        table.add_row(
            gate.gate,
            f"{gate.mean:.4f}",
            *("-" if spread is None else f"{spread:.4f}" for spread in spreads),
            *(in_per_cent(share, ".0f") for share in (gate.near_zero, gate.near_one, gate.near_ceiling)),
            _VERDICTS[gate.verdict],
        )
    return table


def _verdicts(study: GateStudy) -> list[Text]:
    still, constant, live = (study.called(verdict) for verdict in ("open", "constant", "live"))
    lines = []
    if still:
        lines.append(Text(f"Do nothing (no factor differs from 1 by 0.01): {', '.join(still)}.", style="yellow"))
    if constant:
        words = "Constant over the images (spread of each channel under 0.01)"
        lines.append(Text(f"{words}: {', '.join(constant)}.", style="yellow"))
    if still or constant:
        lines.append(Text("`sesurgeon prune` takes such blocks out where that costs no accuracy."))
    elif live:
        lines.append(Text("Every gate depends on the image.", style="green"))
    return lines


def _data(name: str, data: Data, study: GateStudy, files: tuple[Path, ...]) -> dict[str, Any]:
    return {
        "model": name,
        **images_data(data),
        "images": study.images,
        "classes": study.classes,
        "gates": [gate.to_dict() for gate in study.gates],
        "open": study.called("open"),
        "constant": study.called("constant"),
        "files": files,
    }
