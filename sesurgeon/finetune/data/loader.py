"""Batches of tensors, which are the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.augmentation import MILD, Augmentation, train_transform
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import Images, item_of, to_mode
from sesurgeon.finetune.data.labels import Labels, labels_for
from sesurgeon.finetune.data.preparing import mode_of
from sesurgeon.finetune.data.readers import readers_ended, start_reader
from sesurgeon.finetune.data.sampler import Draw, UpdateSampler
from sesurgeon.finetune.data.transforms import Transform, eval_transform
from sesurgeon.machine import cores
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.randomness import reseed, untouched

Item: TypeAlias = tuple[Tensor, int | Tensor]

_CPU = torch.device("cpu")


class PreparedImages(Dataset[Item]):
    """Images as tensors of shape (C, H, W) with their labels, read by the batch.

    An image is asked for by its index, or by a :data:`Draw`, whose seed alone decides the augmentation.
    """

    def __init__(self, images: Images, mode: str, transform: Transform, labels: Labels) -> None:
        self.images = images
        self.mode = mode
        self.transform = transform
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, draws: Sequence[int | Draw]) -> list[Item]:
        with untouched():  # once per batch: it takes longer than to seed
            return [self._item(*draw) if isinstance(draw, tuple) else self._item(draw) for draw in draws]

    def _item(self, index: int, seed: int = 0) -> Item:
        image, target = item_of(self.images, index)
        try:
            reseed(seed, _CPU)
            return self.transform(to_mode(image, self.mode)), self.labels[target]
        except Exception as error:  # Pillow raises anything
            reason = str(error) or type(error).__name__
            raise DataError(f"The image with index {index} cannot be prepared for the model: {reason}") from error


def train_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Labels,
    sampler: UpdateSampler,
    *,
    workers: int,
    augmentation: Augmentation = MILD,
) -> DataLoader[Item]:
    """Augmented images, in the batches of ``sampler``."""
    dataset = PreparedImages(images, mode_of(preprocessing), train_transform(preprocessing, augmentation), labels)
    return _loader(dataset, workers, batch_sampler=sampler)


def eval_loader(
    images: Images,
    preprocessing: Preprocessing,
    labels: Labels,
    *,
    batch_size: int,
    workers: int,
    part: Sequence[int] | None = None,
) -> DataLoader[Item]:
    """Every image once, in order, without augmentation; or the images with the indices ``part``."""
    dataset = PreparedImages(images, mode_of(preprocessing), eval_transform(preprocessing), labels)
    return _loader(dataset, workers, batch_size=batch_size, sampler=range(len(images)) if part is None else part)


def batches(
    data: Data, preprocessing: Preprocessing, split: str = "val", *, batch_size: int = 64, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of one set in order, prepared as for an evaluation.

    Yields:
        images of shape (N, C, H, W), float32, and their indices in ``data.classes`` of shape (N,), int64; or ones and
        zeros of shape (N, classes), float32, if an image may have several labels.

    Raises:
        DataError: ``data`` were opened without that set.
        UsageError: ``batch_size`` is less than 1, or ``workers`` less than 0.
    """
    check_loading(batch_size, workers)
    images = data.split(split)
    loader = eval_loader(images, preprocessing, class_labels(data), batch_size=batch_size, workers=workers)
    with readers_ended(loader):
        yield from loader


def check_loading(batch_size: int, workers: int) -> None:
    """Check the arguments of a loader, before images are opened for it.

    Raises:
        UsageError: ``batch_size`` is less than 1, or ``workers`` less than 0.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise UsageError(f"{name} (={value}) must be at least {least}.")


def class_labels(data: Data) -> Labels:
    """Labels that are indices in ``data.classes``; or ones and zeros if an image may have several."""
    outputs = len(data.classes)
    return labels_for(tuple(range(outputs)), outputs, multi_label=data.multi_label)


def _loader(dataset: PreparedImages, workers: int, **order: Any) -> DataLoader[Item]:
    workers = min(workers, cores())
    return DataLoader(
        dataset,
        **order,
        generator=torch.Generator(),  # otherwise the loader draws from the caller's random numbers
        num_workers=workers,
        worker_init_fn=start_reader,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
