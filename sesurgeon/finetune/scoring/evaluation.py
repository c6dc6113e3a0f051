"""Measuring a classifier on labelled images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgeon.finetune.data import shards
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.labels import map_classes
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.transforms import preprocessing_for
from sesurgeon.finetune.devices import find_device
from sesurgeon.finetune.events import EvaluationStep, OnProgress, ignore
from sesurgeon.finetune.scoring.outputs import count_outputs, device_of, evaluating, main_logits
from sesurgeon.finetune.scoring.scores import Evaluation
from sesurgeon.models.provenance import provenance_of


class Batches(Protocol):
    """Pairs of images (N, C, H, W) and labels (N,), and how many pairs."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


def evaluate(
    model: nn.Module,
    data: Data | str | os.PathLike[str],
    *,
    split: str = "val",
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
) -> Evaluation:
    """Measure ``model`` on one set of ``data``; its train and eval flags are left as they were.

    Classes are matched by name with those of the model's checkpoint, so their order in the data does not
    matter and some may be missing.

    Args:
        model: a classifier.
        data: opened data, or what :func:`open_held_out` takes.
        split: "val" or "train".
        batch_size: images a step.
        workers: processes that read images, at most one a core.
        img_size: side in pixels, in place of what the model's preprocessing says.
        device: "auto", "cpu", "cuda" or "mps"; the model is moved there. None stays where the model is.
        on_progress: gets :class:`EvaluationStep`.

    Raises:
        DataError: bad data (see :func:`open_data`), a class that the model does not know, images that it
            cannot take.
        UsageError: the model is no classifier, or the device is not there.
    """
    data = data if isinstance(data, Data) else open_held_out(model, data, on_progress=on_progress)
    images = data.split(split)
    if device is not None:
        model.to(find_device(device))
    preprocessing = preprocessing_for(model, images, img_size)
    outputs = count_outputs(model, preprocessing)
    labels = map_classes(data.classes, provenance_of(model).classes, outputs)
    loader = eval_loader(images, preprocessing, labels, batch_size=batch_size, workers=workers)
    return measure(model, loader, dict(zip(labels, data.classes, strict=True)), on_progress)


def open_held_out(model: nn.Module, spec: str | os.PathLike[str], **options: Any) -> Data:
    """Open data to measure ``model`` with: never the images that it was fine-tuned on.

    When the model's history says that a share of these very data was held out, it is held out again; other
    data without a validation set count whole. ``options`` are those of :func:`open_data`.
    """
    split: dict[str, Any] = {"val_split": None}
    for record in provenance_of(model).history:
        same = record.get("command") == "finetune" and record.get("data") == identity_of(spec)
        if same and record.get("val_split") is not None:
            split = {"val_split": record["val_split"], "seed": record["seed"]}
    return open_data(spec, training=False, **{**split, **options})


def identity_of(spec: str | os.PathLike[str]) -> str:
    """How a history names data: folders and files by their absolute path, a dataset by its name."""
    name = os.fspath(spec)
    if name.startswith(shards.PREFIX):
        return shards.PREFIX + os.path.realpath(name.removeprefix(shards.PREFIX))
    return os.path.realpath(name) if os.path.exists(name) else name


def measure(
    model: nn.Module, batches: Batches, classes: Mapping[int, str], on_progress: OnProgress = ignore
) -> Evaluation:
    """Run ``model`` over all ``batches``; its train and eval flags are left as they were.

    Args:
        model: a classifier.
        batches: images and labels, the labels being output indices of the model.
        classes: names of the classes in the data, by output index.
        on_progress: gets :class:`EvaluationStep`.
    """
    device = device_of(model)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    k = outputs = 0
    with evaluating(model), torch.no_grad():
        for step, (images, labels) in enumerate(batches, start=1):
            labels = labels.to(device)
            logits = main_logits(model(images.to(device))).float()
            outputs = logits.shape[1]
            k = min(5, outputs)
            hits = (logits.topk(k).indices == labels[:, None]).any(1)
            found.append((labels, logits.argmax(1), hits, F.cross_entropy(logits, labels, reduction="none")))
            on_progress(EvaluationStep(step, len(batches)))
    labels, predictions, hits, losses = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    return Evaluation(dict(sorted(classes.items())), outputs, k, labels, predictions, hits, losses)
