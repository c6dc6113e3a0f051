"""The order of the training images, from the seed and the epoch alone, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch.utils.data import Sampler

Draw: TypeAlias = tuple[int, int]
"""An image's index, and the seed of its augmentation."""


@dataclass(frozen=True)
class UpdateSize:
    """How many images an update has.

    Attributes:
        batch_size: images per step and process.
        steps: steps per update, over which gradients are accumulated.
        processes: how many processes train.
    """

    batch_size: int
    steps: int = 1
    processes: int = 1

    @property
    def batches(self) -> int:
        """How many batches make an update, over all steps and processes."""
        return self.steps * self.processes

    @property
    def images(self) -> int:
        """How many images make an update."""
        return self.batch_size * self.batches


class UpdateSampler(Sampler[list[Draw]]):
    """The batches of one process.

    An update is one optimiser step: ``steps`` batches on each of ``processes`` processes. Order and augmentation seeds
    depend on seed and epoch alone, so N processes see the images of one process with N times the batch, and an epoch
    can be repeated or continued from any update.

    The last update of an epoch is smaller, split into batches as evenly as possible. It is dropped if it would leave
    some process with no image, or with one where batches are larger (BatchNorm needs two).

    Args:
        images: number of images.
        size: of an update.
        seed: of the run.
        process: index of this process.
        weights: of each image, to draw with replacement; None draws every image once an epoch.
    """

    def __init__(
        self, images: int, size: UpdateSize, seed: int, process: int = 0, weights: Sequence[float] | None = None
    ) -> None:
        self.images = images
        self.size = size
        self.seed = seed
        self.process = process
        self.weights = weights
        self.epoch = 0
        self.first = 0
        self.drawn = _drawn(images, size)
        self.per_epoch = -(-self.drawn // size.images)

    def start(self, epoch: int, update: int = 0) -> None:
        """Give the batches of ``epoch`` from ``update`` on, counted from 0."""
        self.epoch = epoch
        self.first = update

    def images_of(self, update: int) -> int:
        """Images of an update, over all its steps and processes."""
        return min(self.size.images, self.drawn - update * self.size.images)

    @property
    def fewest(self) -> int:
        """Images of the smallest batch; 0 if there are too few images for an update."""
        return self.images_of(self.per_epoch - 1) // self.size.batches if self.per_epoch else 0

    def __len__(self) -> int:
        return (self.per_epoch - self.first) * self.size.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            order = random.permutation(self.images)[: self.drawn]
        else:
            shares = np.asarray(self.weights, dtype=float)
            order = random.choice(self.images, self.drawn, p=shares / shares.sum())
        seeds = random.integers(2**32, size=self.drawn)
        for update in range(self.first, self.per_epoch):
            for part in self._parts(update):
                yield list(zip(order[part].tolist(), seeds[part].tolist(), strict=True))

    def _parts(self, update: int) -> Iterator[slice]:
        """Where this process's batches lie among the epoch's draws."""
        first, images, parts = update * self.size.images, self.images_of(update), self.size.batches
        bounds = [first + images * part // parts for part in range(parts + 1)]
        for part in range(self.process, parts, self.size.processes):
            yield slice(bounds[part], bounds[part + 1])


def _drawn(images: int, size: UpdateSize) -> int:
    """Images of an epoch: all of them, or those of its whole updates."""
    whole, rest = divmod(images, size.images)
    smallest = rest // size.batches
    too_small = smallest == 0 or (smallest == 1 < size.batch_size and whole > 0)
    return whole * size.images if too_small else images
