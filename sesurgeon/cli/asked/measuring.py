"""The images on which a verb evaluates a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sesurgeon.cli.asked.images import Opening
from sesurgeon.cli.shown.console import Output
from sesurgeon.cli.shown.images import skipped_note

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.finetune import Data
    from sesurgeon.finetune.events import OnProgress


def open_images(
    out: Output,
    model: nn.Module,
    data: str,
    opening: Opening,
    *,
    workers: int,
    on_progress: OnProgress,
    unlabelled: bool = False,
) -> Data:
    """:func:`sesurgeon.finetune.open_held_out`, which also prints warnings about the images."""
    from sesurgeon.finetune import open_held_out

    images = open_held_out(
        model, data, **vars(opening), workers=workers, on_progress=on_progress, unlabelled=unlabelled
    )
    if images.skipped:
        out.note(skipped_note(images.skipped))
    for note in images.notes:
        out.note(note)
    return images
