"""Which of several sets of images are the training set and the validation set."""

from __future__ import annotations

from collections.abc import Container
from typing import TypeAlias

from sesurgeon.finetune.data.labelled_files import LabelledFiles

TRAIN_NAME = "train"
VAL_NAMES = ("val", "valid", "validation", "test")
SET_NAMES = (TRAIN_NAME, *VAL_NAMES)

Listing: TypeAlias = tuple[LabelledFiles | None, LabelledFiles | None]
"""The training set, or all images where no set is named, and the validation set; None for a set that is not there."""


def val_name_in(names: Container[str]) -> str | None:
    """The name of the validation set: the first of :data:`VAL_NAMES` that is among ``names``."""
    return next((name for name in VAL_NAMES if name in names), None)
