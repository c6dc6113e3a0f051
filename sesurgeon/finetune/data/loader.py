"""Batches of tensors, the same ones whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import Images, to_mode
from sesurgeon.finetune.data.transforms import Transform, eval_transform, mode_of, train_transform
from sesurgeon.models.preprocessing import Preprocessing


class PreparedImages(Dataset[tuple[Tensor, int]]):
    """Images as tensors of shape (C, H, W) with the model's class index.

    An item is asked for by its index, or by (index, seed): then ``seed`` alone decides its random
    augmentation.
    """

    def __init__(self, images: Images, mode: str, transform: Transform, labels: Sequence[int]) -> None:
        self.images = images
        self.mode = mode
        self.transform = transform
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: int | tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = draw if isinstance(draw, tuple) else (draw, 0)
        image, target = self.images[index]
        image = to_mode(image, self.mode)
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            return self.transform(image), self.labels[target]
        finally:
            torch.set_rng_state(state)


class ShuffledDraws(Sampler[tuple[int, int]]):
    """Every image once an epoch, as (index, seed of its augmentation), by ``seed`` and the epoch alone.

    So an epoch can be repeated, or taken up in its middle, by any number of processes.

    Args:
        images: how many there are.
        batch_size: images a step; an image that would be left alone in the last one is left out.
        seed: of the run.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.images = images
        self.seed = seed
        self.epoch = 0
        self.drawn = images - 1 if images > batch_size > 1 and images % batch_size == 1 else images

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.drawn

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self.images)[: self.drawn]
        seeds = random.integers(2**32, size=self.drawn)
        return zip(order.tolist(), seeds.tolist(), strict=True)


def train_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    seed: int,
    hflip: float | None = None,
) -> DataLoader[tuple[Tensor, int]]:
    """Augmented images in random order. ``labels[i]`` is the model's index of the data's class ``i``."""
    dataset = PreparedImages(images, mode_of(preprocessing), train_transform(preprocessing, hflip), labels)
    return _loader(dataset, batch_size, workers, ShuffledDraws(len(images), batch_size, seed))


def eval_loader(
    images: Images, preprocessing: Preprocessing, labels: Sequence[int], *, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, int]]:
    """Every image once, in order, nothing random."""
    dataset = PreparedImages(images, mode_of(preprocessing), eval_transform(preprocessing), labels)
    return _loader(dataset, batch_size, workers, None)


def batches(
    data: Data, preprocessing: Preprocessing, split: str = "val", *, batch_size: int = 64, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of one set in order, as a model sees them in evaluation.

    Yields:
        images of shape (N, C, H, W), float32, and their indices in ``data.classes`` of shape (N,), int64.

    Raises:
        DataError: ``data`` were opened without that set.
    """
    images = data.split(split)
    labels = range(len(data.classes))
    yield from eval_loader(images, preprocessing, labels, batch_size=batch_size, workers=workers)


def _loader(dataset: PreparedImages, batch_size: int, workers: int, sampler: Any) -> DataLoader[tuple[Tensor, int]]:
    workers = min(workers, _cores())
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        generator=torch.Generator(),  # else the loader draws from the caller's random numbers
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
