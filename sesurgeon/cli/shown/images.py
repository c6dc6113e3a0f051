"""What a verb says of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sesurgeon.cli.shown.console import Output
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from sesurgeon.finetune import BadImage, Data

_FEW = 30  # a standard deviation of so many values is off by an eighth
_MOST_NAMED = 5


def skipped_note(skipped: Sequence[BadImage]) -> str:
    """A warning that says which images were left out and why; the first few are named."""
    named = [f"  {image.path}: {image.reason}" for image in skipped[:_MOST_NAMED]]
    more = len(skipped) - _MOST_NAMED
    rest = [f"  … and {more} more; --json lists all."] if more > 0 else []
    images = "1 unreadable image is" if len(skipped) == 1 else f"{len(skipped):,} unreadable images are"
    return "\n".join([f"Warning: {images} left out:", *named, *rest])


def described(data: Data) -> str:
    """The name of the data, and which share was held out."""
    return f"{data.name}{held_out(data)}"


def held_out(data: Data) -> str:
    """`` (20 % held out, seed 42)``; empty if the data have a validation set of their own."""
    return "" if data.val_split is None else f" ({in_per_cent(data.val_split, '.0f')} held out, seed {data.seed})"


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


def note_few(out: Output, images: int) -> None:
    """Warn if there are too few images to tell whether a gate is constant."""
    if images < _FEW:
        seen = counted(images, "image")
        out.note(f"Warning: how much a gate varies cannot be told from {seen}. Give some hundreds.", style="yellow")
