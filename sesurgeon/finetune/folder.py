"""Image folders: one folder a class, with train/ and val/ above them or without."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sesurgeon.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
TRAIN_NAME = "train"
VAL_NAMES = ("val", "validation", "test")  # the first that is there


@dataclass(frozen=True)
class ClassFiles:
    """The files of a folder of class folders.

    Attributes:
        root: the folder.
        classes: the class folders' names, sorted.
        files: the image files of each class, sorted.
        ignored: files in class folders that are no images by their suffix; hidden files are not counted.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    ignored: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for files in self.files for path in files)

    @property
    def targets(self) -> tuple[int, ...]:
        return tuple(index for index, files in enumerate(self.files) for _ in files)

    def without(self, unwanted: frozenset[Path]) -> ClassFiles:
        """The same classes without these files.

        Raises:
            DataError: a class has no image left.
        """
        files = tuple(tuple(path for path in files if path not in unwanted) for files in self.files)
        return _checked(ClassFiles(self.root, self.classes, files, self.ignored))

    def split(self, share: float, seed: int) -> tuple[ClassFiles, ClassFiles]:
        """Hold out ``share`` of every class, at least one image and never its only one: (kept, held out).

        Raises:
            DataError: every class has one image only.
        """
        if all(len(files) < 2 for files in self.files):
            raise DataError(
                f"The class folders of {self.root} have one image each: none can be held out for validation.",
                hint="Add images, or a val/ folder.",
            )
        random = np.random.default_rng(seed)
        kept, held_out = [], []
        for files in self.files:
            count = min(max(1, round(share * len(files))), len(files) - 1)
            chosen = frozenset(random.permutation(len(files))[:count].tolist())
            kept.append(tuple(path for index, path in enumerate(files) if index not in chosen))
            held_out.append(tuple(path for index, path in enumerate(files) if index in chosen))
        return (
            ClassFiles(self.root, self.classes, tuple(kept), self.ignored),
            ClassFiles(self.root, self.classes, tuple(held_out), ()),
        )


def find_splits(root: Path) -> tuple[Path | None, Path | None]:
    """The training and validation folders in ``root``; (None, None) when ``root`` holds class folders itself.

    A folder called "train" is the training set when it holds folders: with images in it, it is a class (of
    vehicles).

    Raises:
        DataError: ``root`` is missing or not a folder.
    """
    if not root.exists():
        raise DataError(
            f"The data folder {root} does not exist.",
            hint="Give a folder of class folders, or torchvision:NAME for one of torchvision's datasets.",
        )
    if not root.is_dir():
        raise DataError(f"The data {root} is a file, not a folder.", hint="Give a folder of class folders.")
    train = root / TRAIN_NAME
    val = next((root / name for name in VAL_NAMES if _folders(root / name)), None)
    return (train if _folders(train) else None), val


def list_classes(root: Path) -> ClassFiles:
    """The classes of ``root`` and their image files, nested folders included.

    Raises:
        DataError: there is no class folder, or an empty one.
    """
    folders = _folders(root)
    if not folders:
        raise DataError(
            f"The data folder {root} has no class folders.",
            hint="Put the images of each class in a folder of its own.",
        )
    files, ignored = [], []
    for folder in folders:
        found = _files(folder)
        files.append(tuple(path for path in found if path.suffix.lower() in SUFFIXES))
        ignored += [path for path in found if path.suffix.lower() not in SUFFIXES]
    return _checked(ClassFiles(root, tuple(folder.name for folder in folders), tuple(files), tuple(ignored)))


def check_same_classes(train: ClassFiles, val: ClassFiles) -> None:
    """Raises:
    DataError: one of the two has a class that the other lacks; all are named.
    """
    differences = [
        f"{', '.join(extra)} in {one.root.name}/ but not in {other.root.name}/"
        for one, other in ((train, val), (val, train))
        if (extra := sorted(set(one.classes) - set(other.classes)))
    ]
    if differences:
        raise DataError(
            f"The classes of {train.root} and {val.root} differ: {'; '.join(differences)}.",
            hint="Both folders need the same class folders.",
        )


def _checked(found: ClassFiles) -> ClassFiles:
    empty = [name for name, files in zip(found.classes, found.files, strict=True) if not files]
    if empty:
        raise DataError(
            f"No readable image in the class folders {', '.join(empty)} of {found.root}.",
            hint=f"Fill or remove them. Images are files with {', '.join(SUFFIXES)}.",
        )
    return found


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"The data folder {root} cannot be read: {error.strerror}.") from error


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not name.startswith(".")
    )
