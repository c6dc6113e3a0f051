"""``sesurgeon predict``: the labels of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sesurgeon.cli.asked.finding import best_of_run, given_or_latest, latest_result
from sesurgeon.cli.asked.images import Passing
from sesurgeon.cli.asked.loading import load_model_or_onnx, note_random_weights
from sesurgeon.cli.asked.options import Reading, Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.scoring import per_cent
from sesurgeon.errors import DataError
from sesurgeon.words import spaces_shown

if TYPE_CHECKING:
    from sesurgeon.finetune import Event, Predictions

_Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="As for evaluate, ONNX files too; by default the newest result of finetune or add-se here.",
        show_default=False,
    ),
]
_Images = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGES", help="Image files, and folders of them.", show_default=False),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--topk",
        min=1,
        help="Labels per image; by default 5, or of a multi-label MODEL those above 50 %.",
        show_default=False,
    ),
]


@spread
def predict(
    model: _Model = None,
    images: _Images = None,
    *,
    topk: TopK = None,
    passing: Passing,
    reading: Reading,
    talking: Talking,
) -> None:
    """Print the most probable labels of each of the IMAGES; of a multi-label MODEL, all probable ones.

    Without a MODEL (if the first name is an image or a folder, but not that of a run), the newest
    `runs/finetune/*/best.pt` or `best.pruned.pt` is taken, or else the newest `*.se.pt` or `*.pruned.pt`. MODEL can
    also be an ONNX file that `export` wrote; it runs in onnxruntime. If images cannot be read, they are listed, the
    others are predicted, and the exit code is 1.
    """
    with reporting(talking) as out:
        from sesurgeon.finetune import EvaluationStep, describe_bad_images, find_images, predict
        from sesurgeon.models import provenance_of

        model, images = _model_and_images(model, images or [])
        paths = find_images(images)
        name = given_or_latest(model, latest_result, out.note)
        with out.working(f"Loading {name}"):
            from sesurgeon.cli.shown.watching import Watcher

            loaded = load_model_or_onnx(name, reading)
        note_random_weights(out, name, reading)
        with out.progress() as progress:
            watcher = Watcher(out, progress)

            def watch(event: Event) -> None:
                if isinstance(event, EvaluationStep):
                    watcher.show("Predicting", "", event.step, event.steps)
                else:
                    watcher(event)

            found = predict(loaded, paths, topk=topk, **vars(passing), on_progress=watch)
        if provenance_of(loaded).preprocessing is None:
            size = "x".join(map(str, found.input_size))
            out.note(f"{name} does not say how images are prepared for it (--preprocessing does): seen as {size}.")
        out.result(_table(found), _data(name, found))
        if found.skipped:
            raise DataError(describe_bad_images(found.skipped, len(paths)))


def _model_and_images(first: str | None, images: list[str]) -> tuple[str | None, list[str]]:
    """MODEL, if it was given, and IMAGES.

    The first name is one of the IMAGES if it is an image or a folder, other than that of a run; also if it is the only
    name and does not exist.
    """
    from sesurgeon.finetune import names_images
    from sesurgeon.models import named_source

    if first is None:
        return None, images
    if best_of_run(first) != first:
        return first, images
    is_missing = named_source(first) is None and not Path(first).exists()
    return (None, [first, *images]) if names_images(first) or (is_missing and not images) else (first, images)


def _table(found: Predictions) -> Table:
    headings = ["image", "label", "probability"]
    more = any(len(image.guesses) > 1 for image in found.images)
    if more:
        headings.append("and" if found.multi_label else "then")
    table = Table(*headings)
    table.columns[2].justify = "right"
    for column in table.columns:
        column.overflow = "fold"
    table.columns[2].no_wrap = True
    for image in found.images:
        labels = [(spaces_shown(guess.label), _share(guess.probability)) for guess in image.guesses]
        first = labels[0] if labels else ("no label", "")
        rest = ", ".join(" ".join(label) for label in labels[1:])
        table.add_row(str(image.path), *first, *([rest] if more else []))
    return table


def _data(name: str, found: Predictions) -> dict[str, Any]:
    return {
        "model": name,
        "input_size": found.input_size,
        "multi_label": found.multi_label,
        "images": [
            {"path": str(image.path), "guesses": [vars(guess) for guess in image.guesses]} for image in found.images
        ],
        "skipped": [{"path": str(image.path), "reason": image.reason} for image in found.skipped],
    }


def _share(probability: float) -> str:
    return per_cent(100 * probability)
