"""What one gate learned, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sesurgeon.finetune.scoring.gatesums import GateSums

CONSTANT = 0.01
"""A channel whose spread over the images is below this is constant; a factor nearer to 1 than this is 1."""

NEAR = 0.1
"""A channel whose mean factor is within this of 0, 1 or the ceiling counts as near it."""

Verdict = Literal["open", "constant", "live"]
"""The gate is 1 for all images; or a constant, which may differ between channels; or depends on the image."""


@dataclass(frozen=True)
class GateStatistics:
    """The factors of one gate over some images. In a block with untrained gates, all factors are exactly 1.

    A gate has a factor per channel. CBAM's second part has one per place, for all channels, and gather-excite with an
    extent has one per channel and place: "channel" then stands for these, too, in the spreads over images and over
    channels. If the number of places changes between passes, factors are taken per channel, and their spread is that
    over images and places.

    Attributes:
        gate: path of the inserted block; of the part of it, for a block with two gates.
        images: how many were seen; an image that passes the gate several times counts as often.
        channels: of the gate.
        mean: of all factors.
        image_spread: standard deviation over the images, mean over the channels: how much the gate depends on the
            image. Near 0, the gate is a constant.
        largest_spread: the same of the channel that varies most.
        channel_spread: standard deviation over the channels of their means over the images: how differently the gate
            treats them.
        class_spread: standard deviation over the classes of their mean factors, mean over the channels; None if fewer
            than two classes were seen.
        near_zero, near_one, near_ceiling: share of the channels whose mean factor is within :data:`NEAR` of it.
        ceiling: the largest factor that the gate can give: 2 for ``2 * sigmoid``, 1 for a plain sigmoid.
        distance: mean of |factor - 1|.
        largest: maximum of |factor - 1|.
    """

    gate: str
    images: int
    channels: int
    mean: float
    image_spread: float
    largest_spread: float
    channel_spread: float
    class_spread: float | None
    near_zero: float
    near_one: float
    near_ceiling: float
    ceiling: float
    distance: float
    largest: float

    @classmethod
    def of(cls, sums: GateSums, ceiling: float) -> GateStatistics:
        """From the sums over the images."""
        means, spreads, channel_means = sums.means(), sums.image_spreads(), sums.channel_means()
        return cls(
            gate=sums.gate,
            images=sums.images,
            channels=sums.channels,
            mean=1 + float(means.mean()),
            image_spread=float(spreads.mean()),
            largest_spread=float(spreads.max()),
            channel_spread=float(means.std(correction=0)),
            class_spread=_class_spread(sums),
            near_zero=_share_near(channel_means, 0),
            near_one=_share_near(channel_means, 1),
            near_ceiling=_share_near(channel_means, ceiling),
            ceiling=ceiling,
            distance=sums.distance / (sums.images * len(means)),
            largest=float(sums.largest),
        )

    @property
    def verdict(self) -> Verdict:
        """Does the block do anything? An open gate does nothing, and a constant one nothing that a weight could not do.

        One channel is enough to make a gate live: late blocks may distinguish a class by few channels.
        """
        if self.largest < CONSTANT:
            return "open"
        return "constant" if self.largest_spread < CONSTANT else "live"

    def to_dict(self) -> dict[str, Any]:
        """All of it, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}

    @property
    def moved(self) -> bool:
        """Does any factor differ from 1 by :data:`CONSTANT` or more? Otherwise the block does next to nothing."""
        return self.verdict != "open"


def _class_spread(sums: GateSums) -> float | None:
    means = sums.class_means()
    seen = means if means is None else means[torch.isfinite(means).all(1)]
    if seen is None or len(seen) < 2:
        return None
    return float(seen.std(0, correction=0).mean())


def _share_near(means: Tensor, place: float) -> float:
    return float(((means - place).abs() <= NEAR).double().mean())
