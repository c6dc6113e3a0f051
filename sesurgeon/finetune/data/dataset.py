"""Images to train a model on and to measure it with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.images import BadImage, Images


@dataclass(frozen=True)
class Data:
    """Labelled images in two sets.

    Attributes:
        name: what was opened, as the user wrote it.
        classes: the names behind the class indices.
        val: the images that a model is measured with.
        train: the images that it is trained on; None when only measuring was asked for.
        val_split: the share that was held out of one folder; None when the sets were apart already.
        seed: by which they were chosen; None likewise.
        skipped: image files that cannot be read and are in neither set.
        ignored: files in class folders that are no images by their suffix.
        notes: what becomes of unusual images and classes, in sentences.
        unlabelled: the images have no labels of their own.
        multi_label: the images give a tuple of class indices each, any number of them, in place of one index.
    """

    name: str
    classes: tuple[str, ...]
    val: Images
    train: Images | None = None
    val_split: float | None = None
    seed: int | None = None
    skipped: tuple[BadImage, ...] = ()
    ignored: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    unlabelled: bool = False
    multi_label: bool = False

    def split(self, name: str) -> Images:
        """The set called "train" or "val".

        Raises:
            DataError: the data were opened without it.
        """
        images = {"train": self.train, "val": self.val}.get(name)
        if images is None:
            raise DataError(f"The data {self.name} have no set '{name}'.", hint="The sets are train and val.")
        return images


def check_is_data(data: object) -> None:
    """Raise a UsageError for what is neither opened data nor a path or name of some."""
    if not isinstance(data, (Data, str, os.PathLike)):
        raise UsageError(
            f"Data are given by a path or a name, not as a {type(data).__name__}.",
            hint="Give a dataset of (PIL image, class index) as sesurgeon.finetune.Data(name, classes, val=dataset).",
        )
