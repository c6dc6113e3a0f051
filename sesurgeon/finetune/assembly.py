"""Putting a run together from its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sesurgeon.errors import DataError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.heldout import held_out_record, identity_of
from sesurgeon.finetune.data.images import labels_of
from sesurgeon.finetune.data.loader import eval_loader, train_loader
from sesurgeon.finetune.data.transforms import Augmentation
from sesurgeon.finetune.data.updates import Shape, UpdateSampler
from sesurgeon.finetune.events import Event, OnProgress
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.keeping.states import write_state
from sesurgeon.finetune.resuming import data_identity
from sesurgeon.finetune.scoring.evaluation import measure
from sesurgeon.finetune.scoring.measured import Measured, joined
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.trainer import Trainer
from sesurgeon.finetune.training.engine import from_all
from sesurgeon.finetune.training.objective import balancing_weights, make_objective
from sesurgeon.finetune.training.phases import infinite_buffers
from sesurgeon.finetune.training.signals import StopRequest
from sesurgeon.finetune.training.teacher import make_teacher, teacher_again
from sesurgeon.models.files.own_weights import read_weights
from sesurgeon.models.provenance import provenance_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_trainer(
    model: nn.Module,
    data: Data,
    task: Task,
    config: FinetuneConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    *,
    trainable: frozenset[str],
    resumes: bool,
    stop: StopRequest,
    on_progress: OnProgress,
) -> Trainer:
    """Put a run together. Random numbers should be those of its seed.

    Args:
        model: the network, prepared and on its device.
        data: its images.
        task: what is trained on what.
        config: the settings.
        accelerator: the machine.
        folder: of the run.
        trainable: names of the parameters that were not frozen when the network came.
        resumes: the run goes on: what it keeps in its folder is taken from there.
        stop: is looked at between updates and between batches of an evaluation.
        on_progress: gets the events.
    """
    images = data.split("train")
    balances = config.class_weights or config.balanced_sampling
    labels = labels_of(images) if balances else []
    counts = _images_by_output(labels, task) if balances else [1] * len(task.classes)
    shape = _shape(config, accelerator)
    weights = None
    if config.balanced_sampling:
        by_output = balancing_weights(counts)
        weights = [by_output[task.indices[label]] for (label,) in labels]
    updates = UpdateSampler(len(images), shape, config.seed, accelerator.process_index, weights)
    batches = train_loader(
        images, task.preprocessing, task.labels, updates, workers=config.workers,
        augmentation=Augmentation(config.hflip, config.aa, config.reprob),
    )  # fmt: skip
    teacher = _teacher(model, task, config, accelerator, folder, resumes)
    writes = accelerator.is_main_process
    part = range(accelerator.process_index, len(data.val), accelerator.num_processes)
    measured = eval_loader(
        data.val, task.preprocessing, task.labels, batch_size=config.batch_size, workers=config.workers, part=part
    )
    recorder = Recorder(
        _measuring(measured, data, task, accelerator, stop, on_progress),
        folder if writes else None,
        None if data.unlabelled else config.metric,  # no state agrees with the start as the start does
        {"data": identity_of(data.name), "val_split": data.val_split, "seed": data.seed, **held_out_record(data)},
        provenance_of(model).history,
        on_progress,
    )
    return Trainer(
        model=model,
        average=_average(model, config),
        task=task,
        trainable=trainable,
        infinite=infinite_buffers(model),
        config=config,
        accelerator=accelerator,
        updates=updates,
        batches=batches,
        readers=(batches, measured),
        objective=make_objective(config, counts, len(images), accelerator.device, teacher),
        recorder=recorder,
        write_state=partial(_write_state, folder.states, data_identity(data)) if writes else None,
        stop=stop,
        on_progress=on_progress,
    )


def checked_updates(data: Data, config: FinetuneConfig, accelerator: Accelerator) -> UpdateSampler:
    """The updates of an epoch.

    Raises:
        DataError: there are fewer training images than an update is dealt out to.
    """
    images, shape = len(data.split("train")), _shape(config, accelerator)
    updates = UpdateSampler(images, shape, config.seed)
    if updates.per_epoch == 0:
        raise DataError(
            f"{data.name} has {images} training images, and an update is dealt out to "
            f"{shape.steps * shape.processes} steps.",
            hint="Take fewer processes or --grad-accum-steps.",
        )
    return updates


def _shape(config: FinetuneConfig, accelerator: Accelerator) -> Shape:
    return Shape(config.batch_size, config.grad_accum_steps, accelerator.num_processes)


def place(model: nn.Module, config: FinetuneConfig, accelerator: Accelerator) -> nn.Module:
    """Move ``model`` to the device and into the memory order of the run."""
    model.to(accelerator.device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def _measuring(
    loader: Any,
    data: Data,
    task: Task,
    accelerator: Accelerator,
    stop: StopRequest,
    on_progress: OnProgress,
) -> Any:
    """A function that evaluates a network on the validation images, each process on its part of them, ``loader``'s."""
    processes = accelerator.num_processes
    names = dict(zip(task.indices, data.classes, strict=True))

    def watch(event: Event) -> None:
        on_progress(event)
        if processes == 1:
            stop.heed()

    def measured(model: nn.Module) -> Measured:
        own = measure(model, loader, names, watch, multi_label=task.multi_label) if len(loader) else None
        return joined([found for found in from_all(accelerator, own) if found is not None])

    return measured


def _teacher(
    model: nn.Module,
    task: Task,
    config: FinetuneConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    resumes: bool,
) -> nn.Module | None:
    from sesurgeon.surgery import save

    if config.distill == 0:
        return None
    if not resumes:
        teacher = make_teacher(model, torch.rand(2, *task.preprocessing.input_size))
        if accelerator.is_main_process:
            save(teacher, folder.teacher)
    else:
        teacher = teacher_again(model, read_weights(folder.teacher), str(folder.teacher))
    return place(teacher, config, accelerator).requires_grad_(False).eval()


def _average(model: nn.Module, config: FinetuneConfig) -> Any | None:
    from sesurgeon.finetune.training.average import Average

    return Average(model, config.model_ema_decay) if config.model_ema else None


def _images_by_output(labels: Sequence[tuple[int, ...]], task: Task) -> list[int]:
    counts = [0] * len(task.classes)
    for label in chain.from_iterable(labels):
        counts[task.indices[label]] += 1
    return counts


def _write_state(folder: Path, identity: Mapping[str, Any], epoch: int, update: int, state: Mapping[str, Any]) -> Path:
    return write_state(folder, epoch, update, {**state, "data": dict(identity)})
