"""The options ``--latency`` and ``--max-latency``."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from sesurgeon.errors import UsageError

Latency = Annotated[
    bool,
    typer.Option("--latency", help="Measure how much slower the blocks make it on this machine (takes a minute)."),
]
MaxLatency = Annotated[
    str | None,
    typer.Option(
        "--max-latency",
        metavar="5%",
        help="Drop the blocks with the highest time per parameter until it is at most this much slower here (PyTorch).",
        show_default=False,
    ),
]


def parse_share(text: str | None) -> float | None:
    """Read ``5%`` or ``0.05`` as 0.05.

    Raises:
        UsageError: it is neither, or a number that could be meant either way.
    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < math.inf:
        raise UsageError(f"--max-latency {text} is not a share.", hint="Write it as 5% or 0.05.")
    if share >= 1 and not text.endswith("%"):
        raise UsageError(
            f"--max-latency {text} could mean {text}% or {100 * share:g}%.", hint="Write the one you mean, with %."
        )
    return share
