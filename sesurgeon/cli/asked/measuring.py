"""The images on which a verb evaluates a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sesurgeon.cli.asked.images import Opening, skipped_note
from sesurgeon.cli.shown.console import Output
from sesurgeon.errors import UsageError
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.finetune import Data
    from sesurgeon.finetune.events import OnProgress


_FEW = 30  # a standard deviation of so many values is off by an eighth


def check_on_bad_image(value: str) -> None:
    """Raise a UsageError for any value but skip and error."""
    if value not in ("skip", "error"):
        raise UsageError(f"--on-bad-image {value} must be skip or error.")


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


def note_few(out: Output, images: int) -> None:
    """Warn if there are too few images to tell whether a gate is constant."""
    if images < _FEW:
        seen = counted(images, "image")
        out.note(f"Warning: how much a gate varies cannot be told from {seen}. Give some hundreds.", style="yellow")


def images_data(data: Data) -> dict[str, Any]:
    """What a verb prints about its images with ``--json``."""
    return {
        "data": data.name,
        "val_split": data.val_split,
        "seed": data.seed,
        "skipped": data.skipped,
        "ignored": data.ignored,
        "notes": data.notes,
    }


def described(data: Data) -> str:
    """The name of the data, and which share was held out."""
    return f"{data.name}{held_out(data)}"


def held_out(data: Data) -> str:
    """`` (20 % held out, seed 42)``; empty if the data have a validation set of their own."""
    return "" if data.val_split is None else f" ({in_per_cent(data.val_split, '.0f')} held out, seed {data.seed})"
