"""The kinds of blocks: their modules, and what they are by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sesurgeon.blocks.block import Block
from sesurgeon.blocks.gates import GateName
from sesurgeon.blocks.kinds.cbam import Cbam
from sesurgeon.blocks.kinds.eca import EfficientChannelAttention
from sesurgeon.blocks.kinds.ese import EffectiveSqueezeExcite
from sesurgeon.blocks.kinds.gc import GlobalContext
from sesurgeon.blocks.kinds.ge import GatherExcite
from sesurgeon.blocks.kinds.se import SqueezeExcite

BlockName = Literal["se", "ese", "eca", "cbam", "gc", "ge"]


@dataclass(frozen=True)
class BlockKind:
    """One kind of block.

    Attributes:
        module: builds it.
        gate: its gate, unless another is asked for.
        settings: it has besides gate and initialisation: names of fields of :class:`BlockConfig`.
        rd_ratio, rd_divisor: timm's own for the width of its squeezed layer; None where it has none.
    """

    module: Callable[..., Block]
    gate: GateName
    settings: tuple[str, ...]
    rd_ratio: float | None = None
    rd_divisor: int | None = None


WIDTH = ("rd_ratio", "rd_channels", "rd_divisor")

KINDS: dict[BlockName, BlockKind] = {
    "se": BlockKind(SqueezeExcite, "sigmoid", (*WIDTH, "squeeze", "bias"), 1 / 16, 8),
    "ese": BlockKind(EffectiveSqueezeExcite, "hard-sigmoid", ("squeeze",)),
    "eca": BlockKind(EfficientChannelAttention, "sigmoid", ("squeeze",)),
    "cbam": BlockKind(Cbam, "sigmoid", WIDTH, 1 / 16, 1),
    "gc": BlockKind(GlobalContext, "sigmoid", WIDTH, 1 / 8, 1),
    "ge": BlockKind(GatherExcite, "sigmoid", (*WIDTH, "squeeze", "extent"), 1 / 16, 1),
}
