"""Batches of tensors, the same ones whatever the number of workers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import Images, to_mode
from sesurgeon.finetune.data.labels import Labels, ManyLabels
from sesurgeon.finetune.data.randomness import seeded
from sesurgeon.finetune.data.transforms import MILD, Augmentation, Transform, eval_transform, mode_of, train_transform
from sesurgeon.finetune.data.updates import Draw, Updates
from sesurgeon.models.preprocessing import Preprocessing

Item: TypeAlias = tuple[Tensor, int | Tensor]

Batch = TypeVar("Batch")

_GRACE = 30  # seconds, for the longest step


class PreparedImages(Dataset[Item]):
    """Images as tensors of shape (C, H, W) with what the model should give for them.

    An item is asked for by its index, or by :data:`Draw`: then the seed in it alone decides its random augmentation.
    """

    def __init__(self, images: Images, mode: str, transform: Transform, labels: Labels) -> None:
        self.images = images
        self.mode = mode
        self.transform = transform
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: int | Draw) -> Item:
        index, seed = draw if isinstance(draw, tuple) else (draw, 0)
        image, target = self.images[index]
        image = to_mode(image, self.mode)
        with seeded(seed):
            return self.transform(image), self.labels[target]


def train_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Labels,
    sampler: Updates,
    *,
    workers: int,
    augmentation: Augmentation = MILD,
) -> DataLoader[Item]:
    """Augmented images, in the batches of ``sampler``; of ``labels`` those of their targets."""
    dataset = PreparedImages(images, mode_of(preprocessing), train_transform(preprocessing, augmentation), labels)
    return _loader(dataset, workers, batch_sampler=sampler)


def eval_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Labels,
    *,
    batch_size: int,
    workers: int,
    part: range | None = None,
) -> DataLoader[Item]:
    """Every image once, in order, nothing random. ``part``: of those images alone."""
    dataset = PreparedImages(images, mode_of(preprocessing), eval_transform(preprocessing), labels)
    return _loader(dataset, workers, batch_size=batch_size, sampler=range(len(images)) if part is None else part)


def batches(
    data: Data, preprocessing: Preprocessing, split: str = "val", *, batch_size: int = 64, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of one set in order, as a model sees them in evaluation.

    Yields:
        images of shape (N, C, H, W), float32, and their indices in ``data.classes`` of shape (N,), int64; where an
        image may have several, ones and zeros of shape (N, classes), float32.

    Raises:
        DataError: ``data`` were opened without that set.
    """
    images = data.split(split)
    indices = tuple(range(len(data.classes)))
    labels = ManyLabels(indices, len(indices)) if data.multi_label else indices
    yield from eval_loader(images, preprocessing, labels, batch_size=batch_size, workers=workers)


def read(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, with clear words where one of its processes fails.

    Raises:
        DataError: a process that reads images died, or could not read one.
    """
    with dead_readers_named():
        yield from batches


@contextlib.contextmanager
def dead_readers_named() -> Iterator[None]:
    """Clear words for what a loader's processes raise; torch raises in the midst of anything when one of them dies.

    Raises:
        DataError: a process that reads images died, or could not read one.
    """
    try:
        yield
    except DataError as error:
        if "Caught DataError in DataLoader worker" not in error.message:
            raise
        # torch puts the whole traceback of the process in front of what was said there
        raise DataError(error.message.rpartition("DataError: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"A process that reads images died: {error}",
            hint="Was it killed, or is there too little memory? Give fewer --workers, or 0.",
        ) from error


def _loader(dataset: PreparedImages, workers: int, **order: Any) -> DataLoader[Item]:
    workers = min(workers, _cores())
    return DataLoader(
        dataset,
        **order,
        generator=torch.Generator(),  # else the loader draws from the caller's random numbers
        num_workers=workers,
        worker_init_fn=_outlive_a_request_to_stop,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _outlive_a_request_to_stop(worker: int) -> None:
    """A terminal's Ctrl-C and a cluster's SIGTERM reach all processes, and the main one is to finish its step.

    SIGTERM ends a process that reads images a little later: it is also how Python ends those that nobody needs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
