"""The numbers that tell what one gate learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sesurgeon.finetune.scoring.gatewatch import CONSTANT, GateSums

NEAR = 0.1
"""How near to 0, to 1 and to the ceiling the mean factor of a channel counts as being there."""

Verdict = Literal["open", "constant", "live"]
"""The gate is 1 for all images; another constant for each channel; or depends on the image."""


@dataclass(frozen=True)
class GateStatistics:
    """The factors of one gate over some images.

    A gate has a factor for each channel; CBAM's second part has one for all channels of each place, and
    gather-excite with an extent one for each channel and place: then "channel" stands for these, too, in the
    spreads over images and over channels.

    Attributes:
        gate: path of the inserted block; of the part of it, for a block with two gates.
        images: how many were seen.
        channels: of the gate.
        mean: of all factors.
        image_spread: standard deviation over the images, mean over the channels.
        largest_spread: the same of the channel that varies most.
        channel_spread: standard deviation over the channels of their means over the images.
        class_spread: standard deviation over the classes of their mean factors, mean over the channels; None where
            fewer than two classes were seen.
        near_zero, near_one, near_ceiling: share of the channels whose mean factor is that, to within :data:`NEAR`.
        ceiling: the largest factor that the gate can give: 2 for ``2 * sigmoid``, 1 for a plain sigmoid.
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
    largest: float

    @classmethod
    def of(cls, sums: GateSums, ceiling: float) -> GateStatistics:
        """From what was summed up over the images."""
        movement, means = sums.movement(), sums.channel_means()
        return cls(
            gate=sums.gate,
            images=sums.images,
            channels=sums.channels,
            mean=movement.mean,
            image_spread=movement.image_spread,
            largest_spread=float(sums.image_spreads().max()),
            channel_spread=movement.channel_spread,
            class_spread=_class_spread(sums),
            near_zero=_share_near(means, 0),
            near_one=_share_near(means, 1),
            near_ceiling=_share_near(means, ceiling),
            ceiling=ceiling,
            largest=sums.largest,
        )

    @property
    def verdict(self) -> Verdict:
        """Does the block do anything? An open gate does nothing; a constant one nothing that a weight could not do.

        One channel is enough to make a gate live: that of a late block may tell one class by few of its channels.
        """
        if self.largest < CONSTANT:
            return "open"
        return "constant" if self.largest_spread < CONSTANT else "live"


def _class_spread(sums: GateSums) -> float | None:
    means = sums.class_means()
    seen = means if means is None else means[torch.isfinite(means).all(1)]
    if seen is None or len(seen) < 2:
        return None
    return float(seen.std(0, correction=0).mean())


def _share_near(means: Tensor, place: float) -> float:
    return float(((means - place).abs() <= NEAR).double().mean())
