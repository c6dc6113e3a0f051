"""Images to train and to measure with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.image_checks import BadImage
from sesurgeon.finetune.data.images import Images


@dataclass(frozen=True)
class Data:
    """Labelled images in two sets, neither of which is empty.

    Attributes:
        name: what was opened, as the user wrote it.
        classes: the names of the classes, by class index.
        val: the images to measure with.
        train: the images to train on; None if the data were opened for measuring only.
        val_split: the share that was held out; None if the validation set was given.
        seed: of the choice of held-out images; None likewise.
        skipped: image files that cannot be read, and are in neither set.
        ignored: files in class folders that are no images by their suffix.
        notes: remarks on unusual images and classes.
        unlabelled: the images have no labels of their own.
        multi_label: targets are tuples of any number of class indices, not single indices.
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

    def __post_init__(self) -> None:
        # reports and checkpoints need plain strings, and users have lists, arrays and numbers
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        for split, images in (("train", self.train), ("val", self.val)):
            if images is not None and len(images) == 0:
                raise DataError(f"The split '{split}' of the data {self.name} has no images.")

    def split(self, name: str) -> Images:
        """The set called "train" or "val".

        Raises:
            DataError: the data were opened without it.
        """
        images = {"train": self.train, "val": self.val}.get(name)
        if images is None:
            known = "They were opened for measuring only." if name == "train" else "The splits are train and val."
            raise DataError(f"The data {self.name} have no split '{name}'.", hint=known)
        return images


def check_is_data(data: object) -> None:
    """Raise a UsageError for what is neither opened data nor a path or name."""
    if not isinstance(data, (Data, str, os.PathLike)):
        raise UsageError(
            f"Data are given by a path or a name, not as a {type(data).__name__}.",
            hint="Wrap a dataset of (PIL image, class index): "
            "from sesurgeon.finetune import Data; data = Data(name, classes, val=dataset)",
        )
