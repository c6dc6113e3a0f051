"""Images for int8: some to find the ranges of activations on, others to see how many labels stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgeon.cli.asked.images import skipped_note
from sesurgeon.cli.shown.console import Output

if TYPE_CHECKING:
    from torch import Tensor, nn

_CALIBRATED_ON, _COMPARED_ON = 256, 1024  # images; more change ranges and shares little
_BATCH = 32

Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="For --int8: images like those that the model will see, as finetune's --data takes them.",
        show_default=False,
    ),
]


def calibration_images(model: nn.Module, spec: str, data_dir: str, out: Output) -> tuple[list[Tensor], list[Tensor]]:
    """Batches of training and of validation images, evenly spread over all of them."""
    from sesurgeon.finetune import open_data, preprocessing_for
    from sesurgeon.finetune.data.loader import class_labels, eval_loader
    from sesurgeon.finetune.data.unlabelled import lacks_classes
    from sesurgeon.finetune.scoring.evaluation import split_of_run
    from sesurgeon.models import provenance_of

    known = provenance_of(model)
    unlabelled = not known.multi_label and lacks_classes(spec, known.classes)
    options: dict[str, Any] = {"multi_label": known.multi_label, "unlabelled": unlabelled, "data_dir": data_dir}
    data = open_data(spec, **options, **split_of_run(model, spec))
    if data.skipped:
        out.note(skipped_note(data.skipped))
    found = []
    for split, most in (("train", _CALIBRATED_ON), ("val", _COMPARED_ON)):
        images = data.split(split)
        preprocessing = preprocessing_for(model, images)
        count = min(most, len(images))
        part = [index * len(images) // count for index in range(count)]
        loader = eval_loader(images, preprocessing, class_labels(data), batch_size=_BATCH, workers=0, part=part)
        found.append([batch for batch, _ in loader])
    return found[0], found[1]
