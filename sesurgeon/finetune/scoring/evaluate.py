"""Measuring a classifier on labelled images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.files import StrPath
from sesurgeon.finetune.data.assumptions import assumptions
from sesurgeon.finetune.data.dataset import Data, check_is_data
from sesurgeon.finetune.data.heldout import held_out_notes, runs_on
from sesurgeon.finetune.data.labels import labels_for, map_classes
from sesurgeon.finetune.data.loader import check_loading, eval_loader
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.preparing import preprocessing_for
from sesurgeon.finetune.data.readers import read, readers_ended
from sesurgeon.finetune.data.unlabelled import lacks_classes
from sesurgeon.finetune.devices import find_device
from sesurgeon.finetune.events import EvaluationStep, OnProgress, ignore
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.forward import as_input, count_outputs, evaluating, main_logits
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.multilabel import MultiLabelEvaluation
from sesurgeon.models.provenance import provenance_of
from sesurgeon.modules import device_of


class Batches(Protocol):
    """Pairs of images (N, C, H, W) and labels.

    Labels are output indices of shape (N,), or ones and zeros of shape (N, outputs) where images may have several.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...


def evaluate(
    model: nn.Module,
    data: Data | StrPath,
    *,
    split: str = "val",
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
) -> Measured:
    """Measure ``model`` on one set of ``data``; its train and eval modes are left as they were.

    Classes are matched by name with those of the model's checkpoint, so their order in the data does not
    matter and some may be missing.

    Args:
        model: a classifier.
        data: opened data, or what :func:`open_held_out` takes.
        split: "val" or "train".
        batch_size: images per step.
        workers: processes that read images, at most one per core.
        img_size: side in pixels, instead of that in the model's preprocessing.
        device: "auto", "cpu", "cuda" or "mps"; the model is moved there. None stays where the model is.
        on_progress: gets :class:`EvaluationStep`.

    Returns:
        An :class:`Evaluation`; a :class:`MultiLabelEvaluation` where images may have several labels.

    Raises:
        DataError: bad data (see :func:`open_data`), a class that the model does not know, images that it
            cannot take.
        UsageError: the model is no classifier, or the device is not available; or the model gives several labels per
            image, and the data were opened with one; or ``batch_size`` is less than 1, or ``workers`` less than 0.
        SesurgeonError: the model's outputs are not finite.
    """
    check_loading(batch_size, workers)
    data = ensure_open(model, data, split=split, workers=workers, on_progress=on_progress)
    given = prepared(model, data, split=split, batch_size=batch_size, workers=workers, img_size=img_size, device=device)
    with readers_ended(given.batches):
        found = measure(model, given.batches, given.classes, on_progress, multi_label=data.multi_label)
    check_outputs(found)
    return replace(found, input_size=given.input_size)


def ensure_open(
    model: nn.Module,
    data: Data | StrPath,
    *,
    split: str,
    workers: int,
    on_progress: OnProgress,
    unlabelled: bool = False,
) -> Data:
    """``data``, opened by :func:`open_held_out` unless they are open already."""
    if isinstance(data, Data):
        return data
    training = split == "train"
    return open_held_out(
        model, data, training=training, workers=workers, unlabelled=unlabelled, on_progress=on_progress
    )


@dataclass(frozen=True)
class Prepared:
    """One set of images, prepared for a model.

    Attributes:
        batches: images and labels.
        classes: names of the classes in the data, by output index, in the order of the data.
        input_size: (channels, height, width) of the images.
    """

    batches: Batches
    classes: Mapping[int, str]
    input_size: tuple[int, int, int]


def prepared(
    model: nn.Module,
    data: Data,
    *,
    split: str,
    batch_size: int,
    workers: int,
    img_size: int | None,
    device: str | None,
    labelled: bool = True,
) -> Prepared:
    """Move ``model`` to the device and prepare one set of ``data`` for it.

    Arguments and errors are those of :func:`evaluate`. With ``labelled=False``, images without labels are taken, too,
    as images of one class.
    """
    images = data.split(split)
    if provenance_of(model).multi_label and not data.multi_label:
        raise UsageError(
            f"The model gives several labels per image, and {data.name} was opened with one.",
            hint="Open it by open_data(..., multi_label=True).",
        )
    if device is not None:
        model.to(find_device(device))
    preprocessing = preprocessing_for(model, images, img_size)
    outputs = count_outputs(model, preprocessing)
    unlabelled = data.unlabelled and not labelled
    indices = (0,) if unlabelled else map_classes(data.classes, provenance_of(model).classes, outputs)
    labels = labels_for(indices, outputs, multi_label=data.multi_label)
    loader = eval_loader(images, preprocessing, labels, batch_size=batch_size, workers=workers)
    return Prepared(loader, dict(zip(indices, data.classes, strict=True)), preprocessing.input_size)


def open_held_out(model: nn.Module, spec: StrPath, **options: Any) -> Data:
    """Open data to measure ``model`` with, without the images that it was fine-tuned on.

    If the model's history says that a share of these data was held out, the same share is held out again; of other
    data without a validation set, all images are used. Notes say if this holds out other images than an earlier run
    did, and what is taken for granted of the model (:func:`assumptions`). The model decides whether images may have
    several labels. ``options`` are those of :func:`open_data`; ``training=True`` opens the images that it was
    fine-tuned on, too.
    """
    check_is_data(spec)
    split = split_of_run(model, spec) or {"val_split": None}
    multi_label = provenance_of(model).multi_label
    data = open_data(spec, **{"training": False, "multi_label": multi_label, **split, **options})
    return replace(data, notes=(*data.notes, *held_out_notes(data, runs_on(model, spec)), *assumptions(model, data)))


def lacks_labels(model: nn.Module, spec: StrPath) -> bool:
    """Are these images without class folders that ``model`` knows?"""
    check_is_data(spec)
    known = provenance_of(model)
    return not known.multi_label and lacks_classes(os.fspath(spec), known.classes)


def split_of_run(model: nn.Module, spec: StrPath) -> dict[str, Any]:
    """``val_split`` and ``seed`` of the last run that fine-tuned the model on these data; empty if none did."""
    return next(({key: run[key] for key in ("val_split", "seed")} for run in reversed(runs_on(model, spec))), {})


def measure(
    model: nn.Module,
    batches: Batches,
    classes: Mapping[int, str],
    on_progress: OnProgress = ignore,
    *,
    multi_label: bool = False,
) -> Measured:
    """Measure ``model`` on ``batches``; its train and eval modes are left as they were.

    Outputs that are not finite are measured, too: training tells better what that means.

    Args:
        model: a classifier.
        batches: images and labels.
        classes: names of the classes in the data, by output index.
        on_progress: gets :class:`EvaluationStep`.
        multi_label: images may have several labels.
    """
    ordered = dict(sorted(classes.items()))
    with evaluating(model), torch.no_grad():
        found = outputs(model, batches, on_progress)
        return MultiLabelEvaluation.of(found, ordered) if multi_label else Evaluation.of(found, ordered)


def check_outputs(found: Measured) -> None:
    """Raise a SesurgeonError if the loss of an image is not finite: its outputs are not, and scores mean nothing."""
    broken = int(found.losses.isfinite().logical_not().sum())
    if broken:
        raise SesurgeonError(
            f"The model's outputs for {broken:,} of {found.images:,} images are not finite.", hint="Check its weights."
        )


def outputs(model: nn.Module, batches: Batches, on_progress: OnProgress) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits, float32, and the labels of each batch, both where ``model`` is."""
    device = device_of(model)
    for step, (images, labels) in enumerate(read(batches), start=1):
        yield main_logits(model(as_input(images, model))).float(), labels.to(device)
        on_progress(EvaluationStep(step, len(batches)))
