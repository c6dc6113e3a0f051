"""Datasets of the Hugging Face Hub, or folders in its format, read by timm and the package ``datasets``."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import IO, Any, Literal

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class, sorted_labels
from sesurgeon.finetune.data.sets import SET_NAMES, TRAIN_NAME, Listing, val_name_in

PREFIX = "hfds:"
_KEYS = ("input_key", "target_key")  # timm's names; their defaults are image and label
_HINT = "Name columns that are not called image and label: hfds:NAME:input_key=img,target_key=fine_label"


@dataclass(frozen=True, eq=False)
class Row:
    """The image of one row of a dataset."""

    reader: Any
    name: str
    index: int

    def __str__(self) -> str:
        return f"{self.name} row {self.index}"

    def open(self, mode: Literal["rb"] = "rb", /) -> IO[bytes]:
        stream: IO[bytes] = self.reader[self.index][0]
        return stream


def list_hfds(spec: str, *, training: bool) -> Listing:
    """List the splits of a dataset. The package downloads what is not in its cache.

    Args:
        spec: what follows ``hfds:``: a name on the Hub or a folder, and perhaps the columns, as in
            ``uoft-cs/cifar100:input_key=img,target_key=fine_label``.
        training: without it, a validation set that is there is opened alone.

    Raises:
        UsageError: the package is not installed, or an option is unknown.
        DataError: the dataset cannot be opened, lacks these columns, or has rows without a label.
    """
    name, keys = _parsed(spec)
    if importlib.util.find_spec("datasets") is None:
        raise UsageError(
            f"{PREFIX}{name} needs the package datasets, which is not installed.", hint="pip install datasets"
        )
    try:
        splits = importlib.import_module("datasets").get_dataset_split_names(name)
        val_name = val_name_in(splits)
        val = None if val_name is None else _set(name, val_name, keys)
        if TRAIN_NAME in splits and (training or val is None):
            return _set(name, TRAIN_NAME, keys), val
    except DataError:
        raise
    except Exception as error:  # Hub, internet, cache and columns fail in many ways
        raise DataError(f"The dataset {PREFIX}{name} cannot be opened: {error}", hint=_HINT) from error
    if val is None:
        raise DataError(
            f"The dataset {PREFIX}{name} has none of the splits {', '.join(SET_NAMES)}.",
            hint=f"It has {', '.join(splits)}.",
        )
    return None, val


def _parsed(spec: str) -> tuple[str, dict[str, str]]:
    name, colon, options = spec.partition(":")
    pairs = [option.partition("=") for option in options.split(",")] if colon else []
    wrong = [key for key, _, value in pairs if key not in _KEYS or not value]
    if wrong or not name:
        raise UsageError(f"'{PREFIX}{spec}' is not {PREFIX}NAME or {PREFIX}NAME:KEY=COLUMN,…", hint=_HINT)
    return name, {key: value for key, _, value in pairs}


def _set(name: str, split: str, keys: dict[str, str]) -> LabelledFiles:
    from timm.data.readers.reader_hfds import ReaderHfds

    where = f"{PREFIX}{name} ({split})"
    reader = ReaderHfds(name, split=split, **keys)
    labels = list(reader.dataset[keys.get("target_key", "label")])
    unlabelled = [index for index, label in enumerate(labels) if label is None or label == -1]
    if unlabelled:  # usual for test splits whose labels are secret
        raise DataError(f"{len(unlabelled):,} rows of {where} have no label, the first is row {unlabelled[0]}.")
    names = {index: label for label, index in reader.class_to_idx.items()}
    named = [names.get(label, str(label)) for label in labels]
    rows = ((label, Row(reader, where, index)) for index, label in enumerate(named))
    return by_class(where, rows, list(names.values()) or sorted_labels(named))
