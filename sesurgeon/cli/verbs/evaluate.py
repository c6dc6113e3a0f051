"""``sesurgeon evaluate``: how good is a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from sesurgeon.cli.asked.finding import given_or_latest, latest_result
from sesurgeon.cli.asked.images import DataSpec, Opening, Passing
from sesurgeon.cli.asked.loading import load_model_or_onnx, note_random_weights
from sesurgeon.cli.asked.measuring import open_images
from sesurgeon.cli.asked.options import OptionalModel, Reading, Talking
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.images import described, images_data
from sesurgeon.cli.shown.scoring import class_table, score_table

if TYPE_CHECKING:
    from sesurgeon.finetune import Data, Measured


@spread
def evaluate(
    data: DataSpec,
    model: OptionalModel = None,
    *,
    all_classes: Annotated[bool, typer.Option("--all", help="List every class, however many there are.")] = False,
    passing: Passing,
    opening: Opening,
    reading: Reading,
    talking: Talking,
) -> None:
    """Evaluate MODEL on the validation images of DATA: top-1, top-5, loss and each class; or mAP and F1.

    Without a MODEL, the newest `runs/finetune/*/best.pt` or `best.pruned.pt` is taken, or else the newest `*.se.pt` or
    `*.pruned.pt`. MODEL can also be an ONNX file that `export` wrote; it runs in onnxruntime. If fine-tuning held out a
    share of the folder for validation, that share is evaluated.
    """
    with reporting(talking) as out:
        name = given_or_latest(model, latest_result, out.note)
        with out.working(f"Loading {name}"):
            from sesurgeon.cli.shown.watching import Watcher
            from sesurgeon.finetune import evaluate

            loaded = load_model_or_onnx(name, reading)
        note_random_weights(out, name, reading)
        with out.progress() as progress:
            watcher = Watcher(out, progress)
            images = open_images(out, loaded, data, opening, workers=passing.workers, on_progress=watcher)
            found = evaluate(loaded, images, **vars(passing), on_progress=watcher)
        title = Text(f"{name} on {described(images)}", style="bold")
        tables = (score_table(found), class_table(found, all_classes=all_classes))
        out.result(Group(title, *tables), _data(name, images, found))


def _data(name: str, data: Data, found: Measured) -> dict[str, Any]:
    return {
        "model": name,
        **images_data(data),
        "images": found.images,
        "input_size": found.input_size,
        **found.scores(),
        "k": getattr(found, "k", None),
        "per_class": [score.to_dict() for score in found.per_class],
    }
