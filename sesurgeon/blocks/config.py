"""Which block, and how wide: what a plan says of each of its sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from sesurgeon.blocks.catalogue import KINDS, WIDTH
from sesurgeon.blocks.catalogue import BlockName as BlockName
from sesurgeon.blocks.gates import GateName
from sesurgeon.blocks.layout import Squeeze
from sesurgeon.errors import UsageError
from sesurgeon.scalars import as_python, is_whole

Init = Literal["identity", "random"]

_MOST = 65_536  # no network has more channels or places a side; what is larger would not fit into memory


@dataclass(frozen=True)
class BlockConfig:
    """The settings of one block, in timm's words.

    Attributes:
        block: the kind of block.
        rd_ratio: width of the squeezed layer as a share of the site's channels: 1/r of the SE paper, section 3;
            None for timm's own of that block.
        rd_channels: that width itself; None to compute it from the ratio.
        rd_divisor: the computed width is rounded to a multiple of this, and is at least this; None for timm's own.
        squeeze: what a channel's places are squeezed by: their mean or their maximum (se, ese, eca, ge).
        gate: from logits to factors; None for the block's own.
        bias: whether the layers of se have biases.
        extent: of the neighbourhood that ge gathers: an even number of places, or 0 for all places.
        init: "identity" starts as an exact identity (a gate that is 1 at zero, last layer zero);
            "random" is the paper's block (plain gate, timm's initialisation), which changes the outputs.
        plain: the gate's factor was folded away: the gate is plain, and the weights are those of a fold.

    Raises:
        UsageError: a value out of its range, or one that the block has no use for; the message holds all of them.
    """

    block: BlockName = "se"
    rd_ratio: float | None = None
    rd_channels: int | None = None
    rd_divisor: int | None = None
    init: Init = "identity"
    squeeze: Squeeze = "avg"
    gate: GateName | None = None
    bias: bool = True
    extent: int = 0
    plain: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, as_python(getattr(self, field.name)))
        problems = [*self._wrong_values(), *self._useless_settings()]
        if problems:
            raise UsageError("The block's settings are wrong: " + "; ".join(problems) + ".")

    def _wrong_values(self) -> Iterator[str]:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (name == "gate" and value is None):
                yield f"{name} (='{value}') must be one of: {', '.join(known)}"
        if self.rd_ratio is not None and not (_is_number(self.rd_ratio) and 0 < self.rd_ratio <= 1):
            yield f"rd_ratio (={self.rd_ratio!r}) must be above 0 and at most 1"
        for name in ("rd_channels", "rd_divisor"):
            value = getattr(self, name)
            if value is not None and not (is_whole(value) and 1 <= value <= _MOST):
                yield f"{name} (={value!r}) must be a whole number, at least 1 and at most {_MOST}"
        if not (is_whole(self.extent) and 0 <= self.extent <= _MOST and self.extent % 2 == 0):
            yield f"extent (={self.extent!r}) must be 0 or an even number, at most {_MOST}"
        for name in ("bias", "plain"):
            if not isinstance(getattr(self, name), bool):
                yield f"{name} (={getattr(self, name)!r}) must be true or false"
        if self.plain and self.gate == "tanh" and self.init == "identity":
            yield "plain (=True) does not work with gate 'tanh': the 1 of 1 + tanh is not a factor that can be folded"

    def _useless_settings(self) -> Iterator[str]:
        if self.block not in get_args(BlockName):
            return
        known = KINDS[self.block].settings
        for name in (*WIDTH, "squeeze", "bias", "extent"):
            value = getattr(self, name)
            if value != _DEFAULTS[name] and name not in known:
                yield f"{name} (={value}) is no setting of block '{self.block}', which has {', '.join(known)}"

    def squeezed(self, channels: int) -> int | None:
        """Width of the squeezed layer for a site of ``channels`` channels, rounded as timm's ``make_divisible``.

        None where the block has no squeezed layer.
        """
        kind = KINDS[self.block]
        if kind.rd_ratio is None or kind.rd_divisor is None:
            return None
        if self.rd_channels is not None:
            return self.rd_channels
        ratio = kind.rd_ratio if self.rd_ratio is None else self.rd_ratio
        divisor = kind.rd_divisor if self.rd_divisor is None else self.rd_divisor
        return max(divisor, int(channels * ratio + divisor / 2) // divisor * divisor)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is kept in plans: the block, and what differs from the defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if name == "block" or value != _DEFAULTS[name]}


_DEFAULTS = {field.name: field.default for field in fields(BlockConfig)}
_CHOICES: dict[str, tuple[str, ...]] = {
    "block": get_args(BlockName),
    "squeeze": get_args(Squeeze),
    "gate": get_args(GateName),
    "init": get_args(Init),
}


def _is_number(value: object) -> bool:
    return is_whole(value) or isinstance(value, float)
