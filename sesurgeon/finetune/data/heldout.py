"""Recognising data, and which of their images a run held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from torch import nn

from sesurgeon.files import StrPath
from sesurgeon.finetune.data import shards
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import FileImages, Images
from sesurgeon.models.provenance import digest_of, provenance_of


def held_out_record(data: Data) -> dict[str, Any]:
    """What a history records of the images that a run held out: their number and a digest of their names.

    Empty if the validation set was given.
    """
    digest = None if data.val_split is None else _digest_of_names(data)
    return {} if digest is None else {"val_images": len(data.val), "val_digest": digest}


def held_out_notes(data: Data, runs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """A warning if earlier runs held out other images of ``data`` than those that are measured with now.

    The validation split is drawn again if files or the seed change. Some of today's validation images may then have
    been training images of an earlier run, and scores would be too high.

    Args:
        data: as they are now.
        runs: the records of the runs on these data in a network's history.
    """
    known = [run for run in runs if "val_digest" in run]
    digest = _digest_of_names(data) if known else None
    others = [run for run in known if digest is not None and run["val_digest"] != digest]
    if not others:
        return ()
    return (
        f"The network was fine-tuned on {data.name} with other images held out ({others[-1]['val_images']:,} then, "
        f"{len(data.val):,} now): it may have been trained on some of those that measure it now, and its scores may "
        "then be too good. The images, the seed or the held-out share have changed since.",
    )


def runs_on(model: nn.Module, spec: StrPath) -> list[Mapping[str, Any]]:
    """The records of runs that held out a share of these data in the model's history, oldest first."""
    identity = identity_of(spec)
    known = (identity, digest_of(identity))
    runs = [record for record in provenance_of(model).history if record.get("command") == "finetune"]
    return [run for run in runs if run.get("data") in known and run.get("val_split") is not None]


def identity_of(spec: StrPath) -> str:
    """How a history names data: the absolute path of folders and files, or the name of a dataset."""
    name = os.fspath(spec)
    if name.startswith(shards.PREFIX):
        return shards.PREFIX + os.path.realpath(name.removeprefix(shards.PREFIX))
    return os.path.realpath(name) if os.path.exists(name) else name


def _digest_of_names(data: Data) -> str | None:
    """A digest of the validation files' names relative to the data, in any order; None for data without files."""
    if not isinstance(data.val, FileImages):
        return None
    root = data.name.removeprefix(shards.PREFIX)
    names = sorted(os.path.relpath(str(file), root) for file in data.val.paths)
    return hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()[:16]


def data_identity(data: Data) -> dict[str, Any]:
    """What must be the same about ``data`` when the run is resumed."""
    train = data.split("train")
    return {
        "train": len(train),
        "val": len(data.val),
        "classes": list(data.classes),
        "files": [_digest_of_names_and_targets(train), _digest_of_names_and_targets(data.val)],
    }


def _digest_of_names_and_targets(images: Images) -> str:
    """A digest of image files, in order. Their folders do not count, because data may be moved."""
    if not isinstance(images, FileImages):
        return ""
    named = [(PurePath(str(path)).name, target) for path, target in zip(images.paths, images.targets, strict=True)]
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]
