"""Knowing data again, and which of their images a run held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from sesurgeon.finetune.data import shards
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.images import FileImages
from sesurgeon.models.provenance import provenance_of


def held_out_record(data: Data) -> dict[str, Any]:
    """What a history keeps of a run's validation images, beside the share and the seed that chose them.

    Their number and a digest of their names; nothing where they lay apart already.
    """
    digest = None if data.val_split is None else _digest_of_names(data)
    return {} if digest is None else {"val_images": len(data.val), "val_digest": digest}


def held_out_notes(data: Data, runs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Says so when runs of before held out other images of ``data`` than those that are measured with now.

    A share is drawn anew when images come or go, and by another seed: a network was trained then on what would measure
    it now, and scores too well.

    Args:
        data: as they are now.
        runs: what a network's history says of its runs on these data.
    """
    known = [run for run in runs if "val_digest" in run]
    digest = _digest_of_names(data) if known else None
    others = [run for run in known if digest is not None and run["val_digest"] != digest]
    if not others:
        return ()
    return (
        f"The network was fine-tuned on {data.name} with other images held out ({others[-1]['val_images']:,} then, "
        f"{len(data.val):,} now): it may have been trained on some of those that measure it now, and its scores are "
        "too good then. The images have changed since, or the seed or the share did.",
    )


def runs_on(model: nn.Module, spec: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    """What the model's history says of the runs that held out a share of these data, oldest first."""
    identity = identity_of(spec)
    known = (identity, digest_of(identity))
    runs = [record for record in provenance_of(model).history if record.get("command") == "finetune"]
    return [run for run in runs if run.get("data") in known and run.get("val_split") is not None]


def identity_of(spec: str | os.PathLike[str]) -> str:
    """How a history names data: folders and files by their absolute path, a dataset by its name."""
    name = os.fspath(spec)
    if name.startswith(shards.PREFIX):
        return shards.PREFIX + os.path.realpath(name.removeprefix(shards.PREFIX))
    return os.path.realpath(name) if os.path.exists(name) else name


def digest_of(identity: str) -> str:
    """What stands for an identity in files that are handed on: it is nobody's business where a user's images lie."""
    return "sha256:" + hashlib.sha256(os.fsencode(identity)).hexdigest()


def _digest_of_names(data: Data) -> str | None:
    """Of the validation files' names, relative to the data, in whatever order; None for what has no files."""
    if not isinstance(data.val, FileImages):
        return None
    root = data.name.removeprefix(shards.PREFIX)
    names = sorted(os.path.relpath(str(file), root) for file in data.val.paths)
    return hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()[:16]
