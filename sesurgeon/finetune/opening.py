"""Opening data by what a user writes: a folder's path or ``torchvision:NAME``."""

from __future__ import annotations

import os
from pathlib import Path

from sesurgeon.errors import DataError
from sesurgeon.finetune import torchvision_data
from sesurgeon.finetune.config import OnBadImage
from sesurgeon.finetune.data import Data
from sesurgeon.finetune.events import ImagesChecked, OnProgress, ignore
from sesurgeon.finetune.folder import ClassFiles, check_same_classes, find_splits, list_classes
from sesurgeon.finetune.images import BadImage, FileImages, find_bad_images


def open_data(
    spec: str | os.PathLike[str],
    *,
    training: bool = True,
    val_split: float | None = 0.2,
    seed: int = 42,
    on_bad_image: OnBadImage = "skip",
    data_dir: str | os.PathLike[str] = "data",
    download: bool = False,
    workers: int = 4,
    on_progress: OnProgress = ignore,
) -> Data:
    """Open an image folder, with every file checked, or one of torchvision's datasets.

    A folder holds ``train/`` and ``val/`` (or ``validation/``, or ``test/``) with one folder a class, or the
    class folders themselves; then ``val_split`` of every class is held out, chosen by ``seed``.

    Args:
        spec: a folder, or ``torchvision:NAME``.
        training: False opens only what measuring needs.
        val_split: see above. None holds nothing out: all images of the class folders are there to measure
            with.
        seed: see above.
        on_bad_image: "skip" leaves unreadable images out and lists them; "error" refuses them.
        data_dir: where torchvision's datasets lie.
        download: may torchvision fetch the dataset?
        workers: threads that check the files.
        on_progress: gets :class:`ImagesChecked`.

    Raises:
        DataError: the data are missing, have one class, an empty class, sets with different classes, or (if
            so asked) an unreadable image.
        UsageError: torchvision has no such dataset.
    """
    name = os.fspath(spec)
    if name.startswith(torchvision_data.PREFIX):
        return _open_torchvision(name, os.fspath(data_dir), training, download)
    train_root, val_root = find_splits(Path(name))
    sets = _listed_sets(Path(name), train_root, val_root, training)
    bad = _bad_images(sets, on_bad_image, workers, on_progress)
    sets = [found.without(frozenset(image.path for image in bad)) for found in sets]
    ignored = tuple(path for found in sets for path in found.ignored)
    share = val_split if val_root is None else None
    if share is not None:
        kept, held_out = sets[0].split(share, seed)
        sets = [kept, held_out] if training else [held_out]
    elif training and val_root is None:
        raise DataError(f"The data folder {name} has no val/ folder.", hint="Hold a share out with --val-split.")
    images = [FileImages(found.paths, found.targets) for found in sets]
    return Data(
        name=name,
        classes=sets[0].classes,
        val=images[-1],
        train=images[0] if training else None,
        val_split=share,
        seed=None if share is None else seed,
        skipped=bad,
        ignored=ignored,
    )


def _listed_sets(root: Path, train_root: Path | None, val_root: Path | None, training: bool) -> list[ClassFiles]:
    """One folder that is still to be split or used whole, or training and validation set."""
    if val_root is None:
        sets = [list_classes(train_root or root)]
    elif not training:
        sets = [list_classes(val_root)]
    elif train_root is not None:
        sets = [list_classes(train_root), list_classes(val_root)]
        check_same_classes(*sets)
    else:
        raise DataError(f"The data folder {root} has {val_root.name}/ but no train/.", hint="Training needs both.")
    if training and len(sets[0].classes) < 2:
        raise DataError(
            f"The data folder {sets[0].root} has one class only: {sets[0].classes[0]}.",
            hint="Training needs at least two class folders.",
        )
    return sets


def _bad_images(
    sets: list[ClassFiles], on_bad_image: OnBadImage, workers: int, on_progress: OnProgress
) -> tuple[BadImage, ...]:
    paths = [path for found in sets for path in found.paths]
    bad = find_bad_images(paths, workers=workers, report=lambda done: on_progress(ImagesChecked(done, len(paths))))
    if bad and on_bad_image == "error":
        listed = "\n".join(f"  {image.path}: {image.reason}" for image in bad)
        raise DataError(
            f"{len(bad)} of {len(paths)} images cannot be read:\n{listed}",
            hint="Mend or remove them, or leave them out with --on-bad-image skip.",
        )
    return bad


def _open_torchvision(spec: str, data_dir: str, training: bool, download: bool) -> Data:
    name = spec.removeprefix(torchvision_data.PREFIX)
    val = torchvision_data.open_split(name, data_dir, training=False, download=download)
    train = torchvision_data.open_split(name, data_dir, training=True, download=download) if training else None
    return Data(spec, torchvision_data.classes_of(val), val, train)
