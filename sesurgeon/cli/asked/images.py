"""Options for the images, how they are read, and where the network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

_IMAGES = "Images"
_COMPUTING = "Computing"

_DATA = typer.Option(
    "--data",
    metavar="DATA",
    help="A folder with train/ and val/ in it, or with class folders; the same as a .tar; a .csv manifest with the "
    "columns path and label; wds:SHARDS; hfds:NAME; or torchvision:NAME, such as torchvision:CIFAR10.",
    show_default=False,
)
DataSpec = Annotated[str, _DATA]
OptionalDataSpec = Annotated[str | None, _DATA]
DataDir = Annotated[str, typer.Option(help="Folder of torchvision's datasets.", rich_help_panel=_IMAGES)]
Download = Annotated[
    bool, typer.Option("--download", help="Download a torchvision dataset if missing.", rich_help_panel=_IMAGES)
]
ImgSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Image side in pixels; by default what the model was made for, or else the size of the images.",
        show_default=False,
        rich_help_panel=_IMAGES,
    ),
]
OnBadImage = Annotated[
    Literal["skip", "error"],
    typer.Option(help="What to do with unreadable images; all are listed.", rich_help_panel=_IMAGES),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Images per step.", rich_help_panel=_COMPUTING)
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", "-j", min=0, help="Processes that read images; at most one per core.", rich_help_panel=_COMPUTING
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(
        help="auto takes an accelerator if there is one, or else the CPU.",
        rich_help_panel=_COMPUTING,
    ),
]


@dataclass(frozen=True)
class Opening:
    """How the images are found and read: options of the verbs that evaluate a network."""

    on_bad_image: OnBadImage = "skip"
    data_dir: DataDir = "data"
    download: Download = False


@dataclass(frozen=True)
class Passing:
    """How the images go through the network: options of the verbs that run it."""

    img_size: ImgSize = None
    batch_size: BatchSize = 64
    workers: Workers = 4
    device: Device = "auto"
