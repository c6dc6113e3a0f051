"""Options that say where blocks go, what they are, and on which inputs the network is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sesurgeon.cli.asked.completing import several_of
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.placement import Choices

_WHERE = "Where blocks go"
_WHAT = "What the blocks are"


def _where(*names: str, default: str | bool = False, **options: Any) -> Any:
    return typer.Option(*names, show_default=default, rich_help_panel=_WHERE, **options)


def _what(*names: str, default: str | bool = False, **options: Any) -> Any:
    return typer.Option(*names, show_default=default, rich_help_panel=_WHAT, **options)


@dataclass(frozen=True)
class Selection:
    """The options as they were typed; None for those that were not."""

    policy: Annotated[
        list[str] | None,
        _where(
            **several_of("standard", "pre", "post", "identity", "inner", "conv"),
            help="standard, pre, post, identity, inner or conv; may be repeated: a tensor that several of them select "
            "gets the block of the first.",
            default="standard",
        ),
    ] = None
    include: Annotated[
        list[str] | None, _where(metavar="GLOB", help="Only sites whose id matches; may be repeated.")
    ] = None
    exclude: Annotated[list[str] | None, _where(metavar="GLOB", help="No sites whose id matches; may be repeated.")] = (
        None
    )
    stages: Annotated[
        str | None,
        _where(metavar="2,3,…", help="Only these stages, counted as in the paper: 2 to 5 have strides 4 to 32."),
    ] = None
    skip_last_stage: Annotated[
        bool | None,
        _where("--skip-last-stage", help="Leave out the last stage, whose gates hardly do anything (section 7.2)."),
    ] = None
    min_channels: Annotated[int | None, _where(metavar="C", help="Only sites with at least so many channels.")] = None
    kernel: Annotated[
        str | None, _where(metavar="3,1x7,…", help="Of the conv sites, only those with these kernel sizes.")
    ] = None
    depthwise: Annotated[
        bool | None, _where("--depthwise/--no-depthwise", help="Of the conv sites, only depthwise ones, or none.")
    ] = None
    every: Annotated[int | None, _where(metavar="K", help="Of the remaining sites, the first of every K.")] = None
    block: Annotated[
        Literal["se", "ese", "eca", "cbam", "gc", "ge"] | None,
        _what(metavar="NAME", help="se, ese, eca, cbam, gc or ge.", default="se"),
    ] = None
    squeeze: Annotated[Literal["avg", "max"] | None, _what(help="How each channel is pooled.", default="avg")] = None
    gate: Annotated[
        Literal["sigmoid", "hard-sigmoid", "tanh"] | None,
        _what(metavar="NAME", help="sigmoid, hard-sigmoid or tanh.", default="the block's own"),
    ] = None
    extent: Annotated[
        int | None, _what(metavar="N", help="Step between regions that ge gathers: even; 0 is one region.", default="0")
    ] = None
    bias: Annotated[
        bool | None, _what("--bias/--no-bias", help="Whether the layers of se have biases, as timm's do.")
    ] = None
    rd_ratio: Annotated[
        float | None,
        _what(metavar="R", help="Width of the squeezed layer per channel.", default="timm's; for se 1/16"),
    ] = None
    rd_channels: Annotated[int | None, _what(metavar="C", help="Width of the squeezed layer, as a number.")] = None
    rd_divisor: Annotated[
        int | None, _what(metavar="N", help="Round the width to a multiple of this.", default="timm's; for se 8")
    ] = None
    init: Annotated[
        Literal["identity", "random"] | None,
        _what(
            help="identity: the same outputs, to the last bit. random: the paper's plain block; outputs change.",
            default="identity",
        ),
    ] = None

    def choices(self) -> Choices:
        """The options that were typed, as the library takes them.

        Raises:
            UsageError: an option is malformed.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        read = {name: _READERS[name](value) if name in _READERS else value for name, value in given.items()}
        return cast("Choices", read)

    def flags(self) -> list[str]:
        """The options that were typed."""
        given = {name.replace("_", "-"): value for name, value in vars(self).items() if value is not None}
        return [f"--no-{name}" if value is False else f"--{name}" for name, value in given.items()]


InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="2,3,224,224",
        help="Shape of an example input; repeat it for each positional argument. By default it is found automatically.",
        show_default=False,
    ),
]


def parse_inputs(shapes: Sequence[str] | None, model: nn.Module) -> Any:
    """Noise of the given shapes for ``model``; None if no shape was given.

    If the first is the shape of a single image, all get a batch of two.

    Raises:
        UsageError: a shape is not a list of positive numbers.
    """
    from sesurgeon.models import input_channels, input_dims, random_input

    if not shapes:
        return None
    sizes = [_numbers(text.replace("x", ","), "--input-shape", text, "2,3,224,224") for text in shapes]
    first = sizes[0]
    batch = (2,) if (first[0], len(first) - 1) == (input_channels(model), input_dims(model)) else ()
    return tuple(random_input((*batch, *one), model) for one in sizes)


def parse_stages(text: str) -> tuple[int, ...]:
    """Read ``2,3``.

    Raises:
        UsageError: it is not a list of numbers.
    """
    return _numbers(text, "--stages", text, "2,3,4,5", least=0)


def parse_kernel(text: str) -> tuple[int | tuple[int, ...], ...]:
    """Read ``3,1x7``: 3 in all directions, or 1 by 7.

    Raises:
        UsageError: it is not a list of sizes.
    """
    sizes = [_numbers(part.replace("x", ","), "--kernel", text, "3,1x7") for part in text.split(",")]
    return tuple(size[0] if len(size) == 1 else size for size in sizes)


def _numbers(part: str, option: str, text: str, example: str, least: int = 1) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in part.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise UsageError(f"{option} {text} must be a list of numbers from {least}.", hint=f"Write {option} {example}")
    return numbers


_READERS: Mapping[str, Callable[[str], Any]] = MappingProxyType({"stages": parse_stages, "kernel": parse_kernel})
