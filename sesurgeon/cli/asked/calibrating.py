"""Images for int8: some to find the ranges of activations, others to see how many labels stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sesurgeon.cli.asked.images import skipped_note
from sesurgeon.cli.shown.console import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from sesurgeon.finetune import BadImage

_CALIBRATED_ON, _COMPARED_ON = 256, 1024  # images; more would hardly change the result
_BATCH = 32

Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="For --int8: images like those that the model will see, in any form that finetune's --data takes.",
        show_default=False,
    ),
]


def calibration_images(
    model: nn.Module, spec: str, data_dir: str, out: Output
) -> tuple[list[Tensor], list[Tensor], Sequence[BadImage]]:
    """Batches of training and of validation images, taken at even steps from all of them; and those left out."""
    from sesurgeon.finetune import open_data, preprocessing_for
    from sesurgeon.finetune.data.loader import class_labels, eval_loader
    from sesurgeon.finetune.scoring.evaluate import lacks_labels, split_of_run
    from sesurgeon.models import provenance_of

    data = open_data(
        spec,
        multi_label=provenance_of(model).multi_label,
        unlabelled=lacks_labels(model, spec),
        data_dir=data_dir,
        **split_of_run(model, spec),
    )
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
    return found[0], found[1], data.skipped
