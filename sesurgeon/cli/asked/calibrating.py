"""Images for int8: some to find the ranges of activations, others to see how many labels stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sesurgeon.cli.shown.console import Output
from sesurgeon.cli.shown.images import skipped_note
from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from sesurgeon.finetune import BadImage

_CALIBRATED_ON, _COMPARED_ON = 256, 1024  # images; more would hardly change the result
_BATCH = 32
_FEW = 64

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
    """Batches of training and of validation images, taken at even steps from all of them; and those left out.

    Raises:
        UsageError: the network takes something else than images.
        DataError: see :func:`sesurgeon.finetune.open_data`.
    """
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
        if count < _FEW:
            what = "ranges of activations come" if split == "train" else "agreement of labels comes"
            out.note(f"Warning: the {what} from {counted(count, 'image')}. Give some hundreds.", style="yellow")
    _check_takes(model, found[0][0][:1])
    return found[0], found[1], data.skipped


def _check_takes(model: nn.Module, image: Tensor) -> None:
    """Run the network on one image, (1, C, H, W): what fails later may have other reasons."""
    from sesurgeon.export.outputs import run

    try:
        run(model, (image,))
    except UntraceableError as error:
        raise UsageError(
            f"--int8 is calibrated on single images, which the network does not take. {error.message}",
            hint="--half makes a small file of any network.",
        ) from error
