"""Image folders: one folder a class, with train/ and val/ above them or without."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.classfiles import SUFFIXES, TRAIN_NAME, VAL_NAMES, ClassFiles, check_none_empty


def list_folder(root: Path, *, training: bool) -> tuple[ClassFiles | None, ClassFiles | None]:
    """The training set, or all there is, and the validation set, if it is apart.

    Without ``training`` a validation set that is there is listed alone.

    Raises:
        DataError: the folder is missing, holds no class folders, an empty one, or sets whose classes differ.
    """
    train_root, val_root = find_splits(root)
    if train_root is None and val_root is None:
        return list_classes(root), None
    aside = tuple(folder for folder in _folders(root) if folder not in (train_root, val_root))
    if val_root is None:
        return replace(list_classes(train_root or root), aside=aside), None
    val = replace(list_classes(val_root), aside=aside)
    if train_root is None or not training:
        return None, val
    train = replace(list_classes(train_root), aside=aside)
    check_same_classes(train, val)
    return train, val


def list_images(root: Path) -> list[Path]:
    """All image files in ``root`` and its folders, but for hidden ones, sorted."""
    return [path for path in _files(root) if path.suffix.lower() in SUFFIXES]


def find_splits(root: Path) -> tuple[Path | None, Path | None]:
    """The training and validation folders in ``root``; (None, None) when ``root`` holds class folders itself.

    A folder called "train" is the training set when it holds folders: with images in it, it is a class (of
    vehicles). Capitals do not matter.

    Raises:
        DataError: ``root`` is missing or not a folder.
    """
    kinds = "Give a folder of class folders, a manifest (.csv), a .tar, or wds:…, hfds:… or torchvision:NAME."
    if not root.exists():
        raise DataError(f"The data folder {root} does not exist.", hint=kinds)
    if not root.is_dir():
        raise DataError(f"The data {root} is a file, not a folder.", hint=kinds)
    named = [folder for folder in _folders(root) if folder.name.lower() in (TRAIN_NAME, *VAL_NAMES)]
    sets = {folder.name.lower(): folder for folder in named if _folders(folder)}  # "train" comes after "Train"
    return sets.get(TRAIN_NAME), next((sets[name] for name in VAL_NAMES if name in sets), None)


def list_classes(root: Path) -> ClassFiles:
    """The classes of ``root`` and their image files, nested folders included.

    Raises:
        DataError: there is no class folder, or an empty one.
    """
    folders = _folders(root)
    if not folders:
        shards = any(path.suffix.lower() == ".tar" for path in root.iterdir())
        raise DataError(
            f"The data folder {root} has no class folders.",
            hint=f"Give one of its .tar files, or wds:{root} for WebDataset shards."
            if shards
            else "Put the images of each class in a folder of its own; finetune --distill 1 takes them without labels.",
        )
    files, ignored = [], []
    for folder in folders:
        found = _files(folder)
        files.append(tuple(path for path in found if path.suffix.lower() in SUFFIXES))
        ignored += [path for path in found if path.suffix.lower() not in SUFFIXES]
    classes = tuple(folder.name for folder in folders)
    check_none_empty(str(root), (name for name, found in zip(classes, files, strict=True) if not found))
    return ClassFiles(str(root), classes, tuple(files), tuple(ignored))


def check_same_classes(train: ClassFiles, val: ClassFiles) -> None:
    """Raises:
    DataError: one of the two has a class that the other lacks; all are named.
    """
    differences = [
        f"{', '.join(extra)} in {Path(one.where).name}/ but not in {Path(other.where).name}/"
        for one, other in ((train, val), (val, train))
        if (extra := sorted(set(one.classes) - set(other.classes)))
    ]
    if differences:
        raise DataError(
            f"The classes of {train.where} and {val.where} differ: {'; '.join(differences)}.",
            hint="Both folders need the same class folders.",
        )


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"The data folder {root} cannot be read: {error.strerror}.") from error


def _files(folder: Path) -> list[Path]:
    """All files in a folder and in its folders, but for hidden ones; each folder once, whatever links lead to it."""
    # a link to one of those above would lead here again
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # true folders first: images shall be called by their place, and not by a link to it
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)
