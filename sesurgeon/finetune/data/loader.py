"""Batches of tensors, the same ones whatever the number of workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import Images, to_mode
from sesurgeon.finetune.data.randomness import seeded
from sesurgeon.finetune.data.transforms import MILD, Augmentation, Transform, eval_transform, mode_of, train_transform
from sesurgeon.finetune.data.updates import Draw, Updates
from sesurgeon.models.preprocessing import Preprocessing


class PreparedImages(Dataset[tuple[Tensor, int]]):
    """Images as tensors of shape (C, H, W) with the model's class index.

    An item is asked for by its index, or by :data:`Draw`: then the seed in it alone decides its random augmentation.
    """

    def __init__(self, images: Images, mode: str, transform: Transform, labels: Sequence[int]) -> None:
        self.images = images
        self.mode = mode
        self.transform = transform
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: int | Draw) -> tuple[Tensor, int]:
        index, seed = draw if isinstance(draw, tuple) else (draw, 0)
        image, target = self.images[index]
        image = to_mode(image, self.mode)
        with seeded(seed):
            return self.transform(image), self.labels[target]


def train_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Sequence[int],
    sampler: Updates,
    *,
    workers: int,
    augmentation: Augmentation = MILD,
) -> DataLoader[tuple[Tensor, int]]:
    """Augmented images, in the batches of ``sampler``. ``labels[i]`` is the model's index of the data's class ``i``."""
    dataset = PreparedImages(images, mode_of(preprocessing), train_transform(preprocessing, augmentation), labels)
    return _loader(dataset, workers, batch_sampler=sampler)


def eval_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    part: range | None = None,
) -> DataLoader[tuple[Tensor, int]]:
    """Every image once, in order, nothing random. ``part``: of those images alone."""
    dataset = PreparedImages(images, mode_of(preprocessing), eval_transform(preprocessing), labels)
    return _loader(dataset, workers, batch_size=batch_size, sampler=range(len(images)) if part is None else part)


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


def _loader(dataset: PreparedImages, workers: int, **order: Any) -> DataLoader[tuple[Tensor, int]]:
    workers = min(workers, _cores())
    return DataLoader(
        dataset,
        **order,
        generator=torch.Generator(),  # else the loader draws from the caller's random numbers
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_main_process,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A terminal's Ctrl-C and a cluster's SIGTERM reach all processes; workers end with the one that they serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
