"""Labelled image files by class, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.images import FileImages, ImageFile

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
TRAIN_NAME = "train"
VAL_NAMES = ("val", "valid", "validation", "test")  # the first that is there


@dataclass(frozen=True)
class ClassFiles:
    """The image files of one set, by class.

    Attributes:
        where: the folder or file that lists them, for messages.
        classes: the classes' names, sorted.
        files: the image files of each class, sorted.
        ignored: files beside them that are no images by their suffix; hidden files are not counted.
        aside: folders beside the sets, which are left aside.
    """

    where: str
    classes: tuple[str, ...]
    files: tuple[tuple[ImageFile, ...], ...]
    ignored: tuple[Path, ...] = ()
    aside: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[ImageFile, ...]:
        return tuple(file for files in self.files for file in files)

    @property
    def targets(self) -> tuple[int, ...]:
        return tuple(index for index, files in enumerate(self.files) for _ in files)

    @property
    def images(self) -> FileImages:
        return FileImages(self.paths, self.targets)

    def without(self, unwanted: Set[ImageFile]) -> ClassFiles:
        """The same classes without these files.

        Raises:
            DataError: a class that had images has none left.
        """
        files = tuple(tuple(file for file in files if file not in unwanted) for files in self.files)
        pairs = zip(self.classes, self.files, files, strict=True)
        check_none_empty(self.where, (name for name, before, after in pairs if before and not after))
        return replace(self, files=files)

    def split(self, share: float, seed: int) -> tuple[ClassFiles, ClassFiles]:
        """Hold out ``share`` of every class, at least one image and never its only one: (kept, held out).

        Raises:
            DataError: every class has one image only.
        """
        if all(len(files) < 2 for files in self.files):
            raise DataError(
                f"The classes of {self.where} have one image each: none can be held out for validation.",
                hint="Add images, or a validation set.",
            )
        random = np.random.default_rng(seed)
        kept, held_out = [], []
        for files in self.files:
            count = max(0, min(max(1, round(share * len(files))), len(files) - 1))
            chosen = frozenset(random.permutation(len(files))[:count].tolist())
            kept.append(tuple(file for index, file in enumerate(files) if index not in chosen))
            held_out.append(tuple(file for index, file in enumerate(files) if index in chosen))
        return replace(self, files=tuple(kept)), replace(self, files=tuple(held_out), ignored=())

    def over(self, classes: tuple[str, ...]) -> ClassFiles:
        """The same files under these classes, some of which may have none here.

        Raises:
            DataError: a class of these files is not among them.
        """
        check_all_trained(self.where, self.classes, classes)
        files = dict(zip(self.classes, self.files, strict=True))
        return replace(self, classes=classes, files=tuple(files.get(name, ()) for name in classes))


def by_class(
    where: str,
    labelled: Iterable[tuple[str, ImageFile]],
    classes: Sequence[str] | None = None,
    ignored: Iterable[Path] = (),
) -> ClassFiles:
    """(Label, file) pairs as :class:`ClassFiles`; the files of a class keep their order.

    Args:
        where: see there.
        labelled: the pairs.
        classes: all labels in their order; by default those of the pairs, sorted.
        ignored: see there.
    """
    files: dict[str, list[ImageFile]] = {} if classes is None else {name: [] for name in classes}
    for label, file in labelled:
        files.setdefault(label, []).append(file)
    order = sorted(files) if classes is None else list(files)
    return ClassFiles(where, tuple(order), tuple(tuple(files[name]) for name in order), tuple(ignored))


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Each label once, whole numbers by their value: 2 before 10."""
    names = set(labels)
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def check_all_trained(where: str, classes: Iterable[str], trained: Iterable[str]) -> None:
    """Raises:
    DataError: there is a name in ``classes`` that is not among the ``trained`` ones.
    """
    unknown = sorted(set(classes) - set(trained))
    if unknown:
        raise DataError(
            f"{where} has classes without training images: {', '.join(unknown)}.",
            hint="Give each of them training images, or leave them out.",
        )


def check_none_empty(where: str, empty: Iterable[str]) -> None:
    """Raises:
    DataError: there is a name in ``empty``, the classes without images.
    """
    names = list(empty)
    if names:
        raise DataError(
            f"No readable image in the classes {', '.join(names)} of {where}.",
            hint=f"Fill or remove them. Images are files with {', '.join(SUFFIXES)}.",
        )
