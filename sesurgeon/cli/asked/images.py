"""Options that say which images there are, how they are read, and where the computing is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from sesurgeon.cli.asked.completing import one_of

if TYPE_CHECKING:
    from sesurgeon.finetune import BadImage

_IMAGES = "The images"
_COMPUTING = "Computing"
_MOST_NAMED = 5

_DATA = typer.Option(
    "--data",
    metavar="DATA",
    help="A folder with train/ and val/ in it, or of class folders; such a folder as .tar; a manifest .csv with "
    "the columns path and label; wds:SHARDS; hfds:NAME; or torchvision:NAME, as torchvision:CIFAR10.",
    show_default=False,
)
DataSpec = Annotated[str, _DATA]
OptionalDataSpec = Annotated[str | None, _DATA]
DataDir = Annotated[str, typer.Option(help="Where torchvision's datasets lie.", rich_help_panel=_IMAGES)]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a torchvision dataset that is not there.", rich_help_panel=_IMAGES)
]
ImgSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side in pixels; by default as the model was made for, else as the images are.",
        show_default=False,
        rich_help_panel=_IMAGES,
    ),
]
OnBadImage = Annotated[
    str,
    typer.Option(
        **one_of("skip", "error"), help="What becomes of unreadable images; all are named.", rich_help_panel=_IMAGES
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images a step.", rich_help_panel=_COMPUTING)]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", "-j", min=0, help="Processes that read images, one a core at most.", rich_help_panel=_COMPUTING
    ),
]
Device = Annotated[
    str,
    typer.Option(**one_of("auto", "cpu", "cuda", "mps"), help="auto takes what is there.", rich_help_panel=_COMPUTING),
]


@dataclass(frozen=True)
class Opening:
    """How the images are found and read: the options of the verbs that measure a network."""

    on_bad_image: OnBadImage = "skip"
    data_dir: DataDir = "data"
    download: Download = False


@dataclass(frozen=True)
class Passing:
    """How the images go through the network: the options of the verbs that look at it."""

    img_size: ImgSize = None
    batch_size: BatchSize = 64
    workers: Workers = 4
    device: Device = "auto"


def skipped_note(skipped: Sequence[BadImage]) -> str:
    """Which images were left out and why, the first few by name."""
    named = [f"  {image.path}: {image.reason}" for image in skipped[:_MOST_NAMED]]
    more = len(skipped) - _MOST_NAMED
    rest = [f"  … and {more} more; --json lists all."] if more > 0 else []
    images = "1 unreadable image is" if len(skipped) == 1 else f"{len(skipped):,} unreadable images are"
    return "\n".join([f"Warning: {images} left out:", *named, *rest])
