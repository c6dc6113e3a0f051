"""Sums over images of what a gate gives, from which its statistics follow.

d = factor - 1, of shape (images, channels x places). Sums of d and d^2 are kept instead of the factor's: near 1 the
spread would be lost in rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GateSums:
    """The sums of one gate; all tensors are float64.

    Attributes:
        gate: its name.
        images: how many were seen; an image that passes the gate several times counts as often.
        channels: of the gate; each has the same number of factors, one per place.
        total: sum of d for each factor, ordered by channel.
        squares: sum of d^2, likewise.
        distance: sum of |d| over all factors.
        largest: maximum of |d|, a 0-d tensor.
        by_class: sum of d by class, mean over places, (classes, channels); None if the images' classes are unknown.
        of_class: number of images of each class, likewise.
    """

    gate: str
    images: int
    channels: int
    total: Tensor
    squares: Tensor
    distance: float
    largest: Tensor
    by_class: Tensor | None = None
    of_class: Tensor | None = None

    @classmethod
    def of(cls, gate: str, d: Tensor, channels: int, labels: Tensor | None = None) -> GateSums:
        """The sums of one batch. ``labels`` are ones and zeros of shape (images, classes)."""
        size = d.abs()
        return cls(
            gate=gate,
            images=len(d),
            channels=channels,
            total=d.sum(0),
            squares=d.square().sum(0),
            distance=float(size.sum()),
            largest=size.max(),
            by_class=None if labels is None else labels.T @ d.reshape(len(d), channels, -1).mean(2),
            of_class=None if labels is None else labels.sum(0),
        )

    def plus(self, other: GateSums) -> GateSums:
        return GateSums(
            gate=self.gate,
            images=self.images + other.images,
            channels=self.channels,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            distance=self.distance + other.distance,
            largest=torch.maximum(self.largest, other.largest),
            by_class=None if self.by_class is None or other.by_class is None else self.by_class + other.by_class,
            of_class=None if self.of_class is None or other.of_class is None else self.of_class + other.of_class,
        )

    def averaged_over_places(self) -> GateSums:
        """With one factor per channel, whose sums are means over its places."""
        total, squares = (sums.reshape(self.channels, -1).mean(1) for sums in (self.total, self.squares))
        distance = self.distance * self.channels / len(self.total)
        return replace(self, total=total, squares=squares, distance=distance)

    def means(self) -> Tensor:
        """Mean of d over the images, (factors,)."""
        return self.total / self.images

    def image_spreads(self) -> Tensor:
        """Standard deviation of each factor over the images, (factors,)."""
        return _deviation(self.means(), self.squares / self.images)

    def channel_means(self) -> Tensor:
        """Mean factor of each channel over images and places, (channels,)."""
        return 1 + self._by_channel(self.total)

    def channel_spreads(self) -> Tensor:
        """Standard deviation of each channel's factor over images and places, (channels,)."""
        return _deviation(self._by_channel(self.total), self._by_channel(self.squares))

    def class_means(self) -> Tensor | None:
        """Mean factor of each class and channel, (classes, channels); NaN for a class without images."""
        if self.by_class is None or self.of_class is None:
            return None
        return 1 + self.by_class / self.of_class[:, None]

    @property
    def finite(self) -> bool:
        """All factors were finite."""
        return bool(self.total.isfinite().all())

    def _by_channel(self, sums: Tensor) -> Tensor:
        return sums.reshape(self.channels, -1).mean(1) / self.images


def _deviation(means: Tensor, squares: Tensor) -> Tensor:
    """The standard deviation of d, from the means of d and d^2."""
    return (squares - means.square()).clamp(min=0).sqrt()
