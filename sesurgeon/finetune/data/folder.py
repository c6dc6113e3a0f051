"""Image folders: one folder per class, in train/ and val/ or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.images import SUFFIXES
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class, check_none_empty
from sesurgeon.finetune.data.sets import SET_NAMES, TRAIN_NAME, Listing, val_name_in


def list_folder(root: Path, *, training: bool) -> Listing:
    """List the sets of an image folder. Without ``training``, a validation set that is there is listed alone.

    Raises:
        DataError: the folder is missing or not readable, has no class folders or an empty one, or its sets have
            different classes.
    """
    train_root, val_root = _find_sets(root)
    if train_root is None and val_root is None:
        return _list_classes(root), None
    aside = tuple(folder for folder in _folders(root) if folder not in (train_root, val_root))
    val = None if val_root is None else _list_classes(val_root, aside)
    if train_root is None or (val is not None and not training):
        return None, val
    train = _list_classes(train_root, aside)
    if val is not None:
        _check_same_classes(train, val)
    return train, val


def list_images(root: Path) -> list[Path]:
    """All image files in ``root`` and its folders, without hidden ones, sorted.

    Raises:
        DataError: one of the folders cannot be read.
    """
    return [path for path in _files(root) if path.suffix.lower() in SUFFIXES]


def _find_sets(root: Path) -> tuple[Path | None, Path | None]:
    """The training and validation folders in ``root``; (None, None) if ``root`` holds class folders itself.

    A folder named like a set is one only if it holds folders: with images directly in it, it is a class (of trains).
    Case does not matter.

    Raises:
        DataError: ``root`` is missing or not a folder.
    """
    kinds = "Give a folder of class folders, a manifest (.csv), a .tar, or wds:…, hfds:… or torchvision:NAME."
    if not root.exists():
        raise DataError(f"The data folder {root} does not exist.", hint=kinds)
    if not root.is_dir():
        raise DataError(f"The data {root} is a file, not a folder.", hint=kinds)
    named = [folder for folder in _folders(root) if folder.name.lower() in SET_NAMES]
    sets = {folder.name.lower(): folder for folder in named if _folders(folder)}  # "train" comes after "Train"
    val_name = val_name_in(sets)
    return sets.get(TRAIN_NAME), None if val_name is None else sets[val_name]


def _list_classes(root: Path, aside: tuple[Path, ...] = ()) -> LabelledFiles:
    """The class folders of ``root`` and their image files, those in nested folders included.

    Raises:
        DataError: there is no class folder, or an empty one, or one that cannot be read.
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
    files = [(folder.name, path) for folder in folders for path in _files(folder)]
    labelled = [(name, path) for name, path in files if path.suffix.lower() in SUFFIXES]
    ignored = [path for _, path in files if path.suffix.lower() not in SUFFIXES]
    found = by_class(str(root), labelled, [folder.name for folder in folders], ignored=ignored, aside=aside)
    check_none_empty(found.where, (name for name, count in zip(found.classes, found.counts, strict=True) if not count))
    return found


def _check_same_classes(train: LabelledFiles, val: LabelledFiles) -> None:
    """Raises:
    DataError: one of the two has a class that the other lacks; all such classes are named.
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
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"The data folder {error.filename} cannot be read: {error.strerror}.") from error


def _files(folder: Path) -> list[Path]:
    """All files in a folder and its folders, without hidden ones; each folder once, however many links lead to it."""
    # a link to one of those above would lead here again
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # real folders before links, so that images are listed under their own path
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)
