"""The settings of blocks and of where they go: one list for all functions that take them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TypedDict

from sesurgeon.blocks import BlockConfig, BlockName, GateName, Init, Squeeze
from sesurgeon.errors import UsageError
from sesurgeon.placement.filters import Filters, Kernel
from sesurgeon.placement.policies import POLICIES


class Choices(TypedDict, total=False):
    """Keywords of :func:`sesurgeon.make_plan` and :func:`sesurgeon.add_se`.

    Attributes:
        policy: name of a policy, or several: "standard" puts blocks where the paper does; see
            :mod:`sesurgeon.placement.policies`. No tensor gets two blocks: the first policy that chooses it counts.
        block: kind of block; see :mod:`sesurgeon.blocks`.
        rd_ratio, rd_channels, rd_divisor: width of the squeezed layer, as in timm: a share of the site's channels
            rounded to a multiple of ``rd_divisor``, or ``rd_channels`` itself.
        squeeze, gate, bias, extent: see :class:`sesurgeon.blocks.BlockConfig`.
        init: "identity" leaves the outputs as they are to the last bit; "random" is the paper's plain block.
        include, exclude: globs on site ids.
        stages: the paper's stages (2 to 5 are the strides 4 to 32).
        min_channels: the fewest channels of a site.
        kernel: allowed sizes of a "conv" site's convolution: 3 or [1, 3], the same in all directions; [(1, 7)] for 1x7.
        depthwise: only "conv" sites of depthwise convolutions (True), or none of them (False).
        skip_last_stage: leave out the last stage, whose gates hardly do anything (section 7.2).
        every: keep every N-th of the remaining sites, starting with the first.
    """

    policy: str | Sequence[str]
    block: BlockName
    rd_ratio: float | None
    rd_channels: int | None
    rd_divisor: int | None
    squeeze: Squeeze
    gate: GateName | None
    bias: bool
    extent: int
    init: Init
    include: Sequence[str]
    exclude: Sequence[str]
    stages: Sequence[int] | None
    min_channels: int
    kernel: Sequence[Kernel]
    depthwise: bool | None
    skip_last_stage: bool
    every: int


def settle(choices: Choices) -> tuple[tuple[str, ...], BlockConfig, Filters]:
    """The policies, the block and the filters that were chosen, checked.

    Raises:
        UsageError: a setting or policy does not exist, or a value is out of its range.
    """
    given = dict(choices)
    policies = check_policies(given.pop("policy", "standard"))  # type: ignore[arg-type]  # a TypedDict forgets, as a dict
    filters = {field.name: given.pop(field.name) for field in fields(Filters) if field.name in given}
    settings = {field.name: given.pop(field.name) for field in fields(BlockConfig) if field.name in given}
    if given:
        known = [*Choices.__annotations__]
        near = [match for name in given for match in difflib.get_close_matches(name, known, n=1)]
        raise UsageError(
            f"There is no setting {', '.join(map(repr, given))}.", hint=f"Did you mean: {', '.join(near or known)}?"
        )
    return policies, BlockConfig(**settings), Filters(**filters)  # type: ignore[arg-type]


def check_policies(policy: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the policies, each once, in order.

    Raises:
        UsageError: one is no name or does not exist, or none is given; the known ones are listed.
    """
    given = [policy] if isinstance(policy, str) else list(policy) if isinstance(policy, Iterable) else None
    if given is None or not all(isinstance(name, str) for name in given):
        raise UsageError(
            f"policy (={policy!r}) must be a name, or a list of names.", hint=f"Known policies: {', '.join(POLICIES)}."
        )
    names = tuple(dict.fromkeys(given))
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        asked = f"There is no policy {', '.join(map(repr, unknown))}." if unknown else "No policy was given."
        raise UsageError(asked, hint=f"Known policies: {', '.join(POLICIES)}.")
    return names
