"""torchvision's datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.images import known_targets
from sesurgeon.finetune.data.sets import TRAIN_NAME, VAL_NAMES
from sesurgeon.words import nearest

PREFIX = "torchvision:"


def open_split(name: str, data_dir: str, *, training: bool, download: bool) -> Any:
    """The training or the validation part of ``torchvision.datasets.NAME``.

    Raises:
        UsageError: torchvision has no dataset of that name, or one without such parts.
        DataError: the dataset is not in ``data_dir``, or is damaged, or cannot be fetched.
    """
    maker = _maker(name)
    parameters = inspect.signature(maker).parameters
    if "train" in parameters:
        return _make(name, maker, data_dir, download, train=training)
    for split in (TRAIN_NAME,) if training else VAL_NAMES:
        if (found := _make(name, maker, data_dir, download, split=split)) is not None:
            return found
    raise _unfit(name)


def classes_of(dataset: Any) -> tuple[str, ...]:
    """The dataset's class names; the numbers from 0 to its highest label, where it has none (SVHN, USPS).

    Raises:
        UsageError: it has no labels either, or labels that are no numbers (CelebA, Kitti).
    """
    names: Any = getattr(dataset, "classes", None)
    if names is None:
        try:
            names = range(max(int(label) for label in known_targets(dataset)) + 1)
        except (TypeError, ValueError) as error:
            raise _unfit(type(dataset).__name__) from error
    if any(isinstance(name, tuple) for name in names):
        return _imagenet_names(names)
    return tuple(str(name) for name in names)


def _imagenet_names(synonyms: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first name of each class. All of ImageNet's are named as in the published weights: it has two cranes."""
    from torchvision.models import ResNet18_Weights

    published = tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    return published if len(synonyms) == len(published) else tuple(names[0] for names in synonyms)


def _maker(name: str) -> Callable[..., Any]:
    from torchvision import datasets

    maker = getattr(datasets, name, None)
    if name not in datasets.__all__ or maker is None:
        raise UsageError(
            f"torchvision has no dataset '{name}'.",
            hint=nearest(name, datasets.__all__) or "Names are spelled as in torchvision.datasets.",
        )
    if not {"train", "split"} & set(inspect.signature(maker).parameters):
        raise _unfit(name)
    return maker  # type: ignore[no-any-return]  # torchvision has no types


def _make(name: str, maker: Callable[..., Any], data_dir: str, download: bool, **part: Any) -> Any | None:
    """A part of a dataset; None if it has no such part."""
    options = {"download": download} if "download" in inspect.signature(maker).parameters else {}
    try:
        return maker(data_dir, **part, **options)
    except TypeError as error:
        raise _unfit(name) from error
    except Exception as error:  # the internet, and damaged files of any format
        if isinstance(error, ValueError) and "for argument split" in str(error):  # of torchvision's verify_str_arg
            return None
        raise _missing(name, data_dir, download, error) from error


def _missing(name: str, data_dir: str, download: bool, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    if download:
        return DataError(
            f"The dataset {PREFIX}{name} could not be fetched into {data_dir}: {reason}",
            hint="Check the network, or copy the dataset there in torchvision's layout. If what lies there is damaged, "
            "delete it first: torchvision fetches only what is missing.",
        )
    reason = reason.partition(" You can use download=True")[0]  # here it is an option of the command
    return DataError(
        f"The dataset {PREFIX}{name} is not in {data_dir}, or is damaged: {reason}",
        hint="Fetch it with --download, or say where it lies with --data-dir. If it is damaged, delete it first: "
        "torchvision fetches only what is missing.",
    )


def _unfit(name: str) -> UsageError:
    return UsageError(
        f"torchvision's dataset '{name}' has no training and validation part with one class per image.",
        hint="Save its images as a folder of class folders.",
    )
