"""Which block, and how wide: what a plan says of each of its sites."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sesurgeon.errors import UsageError

BlockName = Literal["se"]
Init = Literal["identity", "random"]


@dataclass(frozen=True)
class BlockConfig:
    """The settings of one block, in timm's words.

    Attributes:
        block: the kind of block.
        rd_ratio: width of the squeezed layer as a share of the site's channels: 1/r of the paper, section 3.
        rd_channels: that width itself; None to compute it from the ratio.
        rd_divisor: the computed width is rounded to a multiple of this, and is at least this.
        init: "identity" starts as an exact identity (gate ``2 * sigmoid``, last layer zero);
            "random" is the paper's block (plain sigmoid, timm's initialisation), which changes the outputs.

    Raises:
        UsageError: a value out of its range; the message holds all of them.
    """

    block: BlockName = "se"
    rd_ratio: float = 1 / 16
    rd_channels: int | None = None
    rd_divisor: int = 8
    init: Init = "identity"

    def __post_init__(self) -> None:
        problems = []
        if self.block not in get_args(BlockName):
            problems.append(f"block (='{self.block}') must be one of: {', '.join(get_args(BlockName))}")
        if not 0 < self.rd_ratio <= 1:
            problems.append(f"rd_ratio (={self.rd_ratio}) must be above 0 and at most 1")
        if self.rd_channels is not None and self.rd_channels < 1:
            problems.append(f"rd_channels (={self.rd_channels}) must be at least 1")
        if self.rd_divisor < 1:
            problems.append(f"rd_divisor (={self.rd_divisor}) must be at least 1")
        if self.init not in get_args(Init):
            problems.append(f"init (='{self.init}') must be one of: {', '.join(get_args(Init))}")
        if problems:
            raise UsageError("The block's settings are wrong: " + "; ".join(problems) + ".")

    def squeezed(self, channels: int) -> int:
        """Width of the squeezed layer for a site of ``channels`` channels, rounded as timm's ``make_divisible``."""
        if self.rd_channels is not None:
            return self.rd_channels
        divisor = self.rd_divisor
        return max(divisor, int(channels * self.rd_ratio + divisor / 2) // divisor * divisor)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is kept in plans."""
        return asdict(self)
