"""Opening data by what the user writes: a folder, a manifest, an archive, shards, or the name of a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from sesurgeon.errors import DataError, UsageError
from sesurgeon.files import StrPath
from sesurgeon.finetune.config import OnBadImage
from sesurgeon.finetune.data import archives, hfds, manifest, shards, torchvision_data
from sesurgeon.finetune.data.dataset import Data, check_is_data
from sesurgeon.finetune.data.folder import list_folder
from sesurgeon.finetune.data.image_checks import bad_images, check_images, describe_bad_images
from sesurgeon.finetune.data.labelled_files import LabelledFiles
from sesurgeon.finetune.data.notes import aside_notes, class_notes, conversion_notes, ignored_notes
from sesurgeon.finetune.data.sets import Listing
from sesurgeon.finetune.data.unlabelled import list_unlabelled
from sesurgeon.finetune.events import OnProgress, ignore


def open_data(
    spec: StrPath,
    *,
    training: bool = True,
    multi_label: bool = False,
    unlabelled: bool = False,
    val_split: float | None = 0.2,
    seed: int = 42,
    on_bad_image: OnBadImage = "skip",
    data_dir: StrPath = "data",
    download: bool = False,
    workers: int = 4,
    on_progress: OnProgress = ignore,
) -> Data:
    """Open labelled images and check that every file can be read (torchvision's datasets are taken as they are).

    ====================  ============================================================================
    a folder              with ``train/`` and ``val/`` (or ``valid/``, ``validation/``, or ``test/``) and a
                          folder per class in them, or with class folders only
    ``labels.csv``        a manifest: columns path, label and perhaps split; see :mod:`.manifest`
    ``photos.tar``        such a folder, packed; or a tar of tars, one per class; see :mod:`.archives`
    ``wds:SHARDS``        WebDataset shards on this machine: a folder of them, or ``a-{000..127}.tar``;
                          see :mod:`.shards`
    ``hfds:NAME``         a dataset of the Hugging Face Hub, see :mod:`.hfds`; needs ``datasets``
    ``torchvision:NAME``  one of torchvision's datasets, see :mod:`.torchvision_data`
    ====================  ============================================================================

    Without a validation set, ``val_split`` of every class is held out, chosen by ``seed``. The data's ``notes`` say how
    unusual images and classes are treated.

    Args:
        spec: see above.
        training: False opens only what measuring needs.
        multi_label: an image may have several labels, or none: a manifest lists them with ``|`` between.
        unlabelled: take all images of a folder or a tar, whatever their folders, and no labels.
        val_split: see above. None holds nothing out: all images are measured with.
        seed: see above.
        on_bad_image: "skip" leaves unreadable images out and lists them; "error" refuses them.
        data_dir: the folder of torchvision's datasets.
        download: whether torchvision may download the dataset.
        workers: threads that check the files.
        on_progress: gets :class:`ImagesChecked`.

    Raises:
        DataError: the data are missing, have one class, an empty class, sets with different classes, or (with
            "error") an unreadable image.
        UsageError: ``spec`` is something else; torchvision has no such dataset, or a package is missing; or
            ``multi_label`` is given and this is no manifest, or ``unlabelled``, too; or an argument is out of range.
    """
    check_is_data(spec)
    _check_options(val_split, seed, on_bad_image)
    name = os.fspath(spec)
    if multi_label and not _is_manifest(name):
        raise UsageError(
            f"Several labels per image are read from a manifest (.csv or .tsv), which {name} is not.",
            hint="Give a .csv or .tsv with the columns path and label, the labels of an image with | between them.",
        )
    if multi_label and unlabelled:
        raise UsageError("multi_label and unlabelled exclude each other.", hint="Give one of them.")
    if name.startswith(torchvision_data.PREFIX):
        if unlabelled:
            raise UsageError(f"{name} has labels.", hint="Images without labels come from a folder or a tar.")
        return _open_torchvision(name, os.fspath(data_dir), training, download)
    train, val = _list(name, training, multi_label, unlabelled)
    sets = _needed_sets(name, train, val, training, fewest=1 if multi_label or unlabelled else 2)
    checks = check_images([file for found in sets for file in found.paths], workers=workers, on_progress=on_progress)
    skipped = bad_images(checks)
    if skipped and on_bad_image == "error":
        raise DataError(
            describe_bad_images(skipped, len(checks)),
            hint="Repair or remove them, or leave them out with --on-bad-image skip.",
        )
    unreadable = frozenset(checked.file for checked in checks if checked.problem is not None)
    sets = [found.without(unreadable) for found in sets]
    ignored = tuple(path for found in sets for path in found.ignored)
    share = val_split if val is None else None
    if share is not None:
        sets = list(sets[0].split(share, seed))
    elif training and val is None:
        raise DataError(
            f"The data {name} have no validation set.",
            hint="Hold a share out with --val-split, or with open_data(..., val_split=0.2) in Python.",
        )
    _check_some_labelled(sets[-1])
    return Data(
        name=name,
        classes=sets[0].classes,
        val=sets[-1].images,
        train=sets[0].images if training else None,
        unlabelled=unlabelled,
        multi_label=multi_label,
        val_split=share,
        seed=None if share is None else seed,
        skipped=skipped,
        ignored=ignored,
        notes=(*aside_notes(sets), *ignored_notes(ignored), *conversion_notes(checks), *class_notes(sets)),
    )


def _check_options(val_split: float | None, seed: int, on_bad_image: str) -> None:
    choices = get_args(OnBadImage)
    for name, value, holds, rule in (
        ("val_split", val_split, val_split is None or 0 < val_split < 1, "between 0 and 1, or None"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("on_bad_image", on_bad_image, on_bad_image in choices, " or ".join(choices)),
    ):
        if not holds:
            raise UsageError(f"{name} (={value!r}) must be {rule}.")


def _list(name: str, training: bool, multi_label: bool, unlabelled: bool) -> Listing:
    path = Path(name)
    if unlabelled:
        return list_unlabelled(path), None
    if name.startswith(hfds.PREFIX):
        return hfds.list_hfds(name.removeprefix(hfds.PREFIX), training=training)
    if name.startswith(shards.PREFIX):
        return shards.list_shards(name.removeprefix(shards.PREFIX), training=training)
    if _is_manifest(name):
        return manifest.list_manifest(path, multi_label=multi_label)
    if path.suffix.lower() == archives.SUFFIX and not path.is_dir():
        return archives.list_tar(path)
    return list_folder(path, training=training)


def _is_manifest(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in manifest.SUFFIXES and not path.is_dir()


def _needed_sets(
    name: str, train: LabelledFiles | None, val: LabelledFiles | None, training: bool, fewest: int
) -> list[LabelledFiles]:
    """Training and validation set; or the validation set alone; or all images, which are still to be split."""
    if train is not None and val is not None and training:
        sets = [train, val.with_classes(train.classes)]
    elif val is not None and not training:
        sets = [val]
    elif train is not None and val is None:
        sets = [train]
    else:
        raise DataError(f"The data {name} have a validation set, but no training set.", hint="Training needs both.")
    if training and len(sets[0].classes) < fewest:
        raise DataError(
            f"The data {sets[0].where} have one class only: {sets[0].classes[0]}.",
            hint="Training needs at least two classes. Images without any are named by the folder that they lie in.",
        )
    return sets


def _check_some_labelled(found: LabelledFiles) -> None:
    """Raises:
    DataError: no image has a label, so that nothing could be measured.
    """
    if not any(found.targets):
        raise DataError(
            f"None of the {len(found.paths):,} images to measure with in {found.where} has a label.",
            hint="Put images of each class there.",
        )


def _open_torchvision(spec: str, data_dir: str, training: bool, download: bool) -> Data:
    name = spec.removeprefix(torchvision_data.PREFIX)
    val = torchvision_data.open_split(name, data_dir, training=False, download=download)
    train = torchvision_data.open_split(name, data_dir, training=True, download=download) if training else None
    return Data(spec, torchvision_data.classes_of(val), val, train)
