"""Options that say where blocks go and on which inputs the network is looked at, and their reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_WHERE = "Where blocks go"
_WHAT = "What the blocks are"

Policy = Annotated[str, typer.Option(help="What chooses the sites.", rich_help_panel=_WHERE)]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Only sites whose id matches this glob; may be repeated.", rich_help_panel=_WHERE),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="No site whose id matches this glob; may be repeated.", rich_help_panel=_WHERE),
]
Stages = Annotated[
    str | None,
    typer.Option(
        metavar="2,3,…",
        help="Only these stages of the paper: 2 to 5 are the strides 4 to 32.",
        rich_help_panel=_WHERE,
    ),
]
MinChannels = Annotated[int, typer.Option(min=1, help="Only sites with so many channels.", rich_help_panel=_WHERE)]
RdRatio = Annotated[float, typer.Option(help="Width of the squeezed layer over the channels.", rich_help_panel=_WHAT)]
RdChannels = Annotated[int | None, typer.Option(help="That width itself.", show_default=False, rich_help_panel=_WHAT)]
RdDivisor = Annotated[int, typer.Option(help="The width is a multiple of this.", rich_help_panel=_WHAT)]
Init = Annotated[
    str,
    typer.Option(
        metavar="identity|random",
        help="identity: the same outputs, to the last bit. random: the paper's plain block; outputs change.",
        rich_help_panel=_WHAT,
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="2,3,224,224",
        help="Shape of an example input; once for each positional argument. Found out by default.",
        show_default=False,
    ),
]


def parse_stages(text: str | None) -> tuple[int, ...] | None:
    """Read ``2,3``.

    Raises:
        UsageError: it is no list of numbers.
    """
    return None if text is None else _numbers(text, "--stages", "2,3,4,5")


def parse_inputs(shapes: Sequence[str] | None, model: nn.Module) -> Any:
    """Noise of the given shapes for ``model``; None where none was given. A shape without a batch gets one of two.

    Raises:
        UsageError: a shape is no list of positive numbers.
    """
    from sesurgeon.models import input_channels, random_input

    if not shapes:
        return None
    inputs = []
    for text in shapes:
        sizes = _numbers(text, "--input-shape", "2,3,224,224")
        if len(sizes) == 3 and sizes[0] == input_channels(model):
            sizes = (2, *sizes)
        inputs.append(random_input(sizes, model))
    return tuple(inputs)


def _numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} {text} is no list of numbers from 1 on.", hint=f"Write {option} {example}")
    return numbers
