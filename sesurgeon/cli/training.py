"""Options of training, in timm's words; what they mean stands in ``finetune.FinetuneConfig``."""

from __future__ import annotations

from typing import Annotated

import typer

_LENGTH = "How long"
_RATE = "How fast"
_ELSE = "What else"
_WHERE = "Where it is kept"

Epochs = Annotated[int, typer.Option(help="Passes over the training images, in all.", rich_help_panel=_LENGTH)]
FreezeEpochs = Annotated[
    int,
    typer.Option(
        help="How many of them, at the start, train only what is new: inserted blocks, a new head.",
        rich_help_panel=_LENGTH,
    ),
]
WarmupEpochs = Annotated[
    float, typer.Option(help="Linear warm-up of each phase; may be a part of an epoch.", rich_help_panel=_LENGTH)
]
Lr = Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_RATE)]
LrBlockMult = Annotated[float, typer.Option(help="What is new gets --lr times this.", rich_help_panel=_RATE)]
LrBackboneMult = Annotated[float, typer.Option(help="Everything else gets --lr times this.", rich_help_panel=_RATE)]
Sched = Annotated[
    str, typer.Option(metavar="cosine|tanh|none", help="Its course within a phase.", rich_help_panel=_RATE)
]
Opt = Annotated[str, typer.Option(help="An optimiser of timm's: adamw, sgd, lamb, …", rich_help_panel=_ELSE)]
WeightDecay = Annotated[float, typer.Option(help="Not of biases and norms.", rich_help_panel=_ELSE)]
Smoothing = Annotated[float, typer.Option(help="Label smoothing.", rich_help_panel=_ELSE)]
Hflip = Annotated[
    float | None,
    typer.Option(
        help="Probability of a horizontal flip; by default 0.5 for colour images above 64 pixels, else 0.",
        show_default=False,
        rich_help_panel=_ELSE,
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_ELSE)]
ValSplit = Annotated[
    float, typer.Option(help="Share held out of a folder without a val/.", rich_help_panel="The images")
]
RunsFolder = Annotated[
    str, typer.Option("--output", "-o", metavar="FOLDER", help="Holds the runs.", rich_help_panel=_WHERE)
]
Name = Annotated[
    str | None,
    typer.Option(
        help="The run's folder in it; by default exp, exp2, … whichever is free.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
]
ForceRun = Annotated[bool, typer.Option("--force", help="Replace a run of that name.", rich_help_panel=_WHERE)]
