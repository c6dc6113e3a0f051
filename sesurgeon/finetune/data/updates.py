"""Which images make which update: by the seed and the epoch alone, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch.utils.data import Sampler

Draw: TypeAlias = tuple[int, int]
"""An image's index, and the seed of its augmentation."""


@dataclass(frozen=True)
class Shape:
    """How an update's images are dealt out.

    Attributes:
        batch_size: images a step on each process.
        steps: steps of an update: gradients are accumulated over them.
        processes: how many take part.
    """

    batch_size: int
    steps: int = 1
    processes: int = 1

    @property
    def images(self) -> int:
        """Of a whole update."""
        return self.batch_size * self.steps * self.processes


class UpdateSampler(Sampler[list[Draw]]):
    """The batches of one process, update by update.

    Every image comes once an epoch, or is drawn with replacement by ``weights``. The last update of an epoch is
    smaller, and dealt out as evenly as can be; it is left out where it would leave a step with a single image
    (BatchNorm cannot train on one value) or none. So an epoch can be repeated, or taken up in its middle, and N
    processes train on the very images of one process with N times their batch.

    Args:
        images: how many there are.
        shape: of an update.
        seed: of the run.
        process: whose batches these are, from 0.
        weights: of each image in drawing with replacement; None for each image once.
    """

    def __init__(
        self, images: int, shape: Shape, seed: int, process: int = 0, weights: Sequence[float] | None = None
    ) -> None:
        self.images = images
        self.shape = shape
        self.seed = seed
        self.process = process
        self.weights = weights
        self.epoch = 0
        self.first = 0
        self.drawn = _drawn(images, shape)
        self.per_epoch = -(-self.drawn // shape.images)

    def start(self, epoch: int, update: int = 0) -> None:
        """Give the batches of ``epoch`` from ``update`` on, counted from 0."""
        self.epoch = epoch
        self.first = update

    def size(self, update: int) -> int:
        """Images of an update, over all its steps and processes."""
        return min(self.shape.images, self.drawn - update * self.shape.images)

    @property
    def fewest(self) -> int:
        """Images of the smallest step: 0 where no update can be made."""
        return self.size(self.per_epoch - 1) // (self.shape.steps * self.shape.processes) if self.per_epoch else 0

    def __len__(self) -> int:
        return (self.per_epoch - self.first) * self.shape.steps

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
        """Of each step of this process, among the epoch's draws."""
        first, size = update * self.shape.images, self.size(update)
        hands = self.shape.steps * self.shape.processes
        for step in range(self.shape.steps):
            hand = step * self.shape.processes + self.process
            yield slice(first + size * hand // hands, first + size * (hand + 1) // hands)


def _drawn(images: int, shape: Shape) -> int:
    whole, rest = divmod(images, shape.images)
    hands = shape.steps * shape.processes
    fewest = rest // hands  # images of a step
    lonely = fewest == 1 < shape.batch_size and whole > 0
    return whole * shape.images if fewest == 0 or lonely else images
