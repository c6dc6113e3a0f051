"""Putting the parts of a run together from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sesurgeon.errors import DataError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.context import RunContext
from sesurgeon.finetune.data.augmentation import Augmentation
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.heldout import data_identity, held_out_record, identity_of
from sesurgeon.finetune.data.images import labels_of
from sesurgeon.finetune.data.loader import eval_loader, train_loader
from sesurgeon.finetune.data.sampler import UpdateSampler, UpdateSize
from sesurgeon.finetune.events import Event
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.states import RunState
from sesurgeon.finetune.scoring.evaluate import measure
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.perimage import joined
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.trainer import Trainer
from sesurgeon.finetune.training.loop import Loop
from sesurgeon.finetune.training.objective import balancing_weights, make_objective
from sesurgeon.finetune.training.phases import infinite_buffers
from sesurgeon.finetune.training.processes import from_all
from sesurgeon.finetune.training.teacher import OtherTeacher, check_is_the_kept, make_teacher, restore_teacher
from sesurgeon.models.files.own_weights import read_weights, take_weights
from sesurgeon.models.provenance import provenance_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_trainer(
    model: nn.Module,
    data: Data,
    task: Task,
    run: RunContext,
    state: RunState | None,
    teacher: OtherTeacher | None,
) -> Trainer:
    """Put the parts of a run together. The caller seeds the random numbers.

    Args:
        model: the network, prepared and on its device.
        data: its images.
        task: what is trained on what.
        run: settings, processes and folder.
        state: from which the run is resumed; None for a new run.
        teacher: another network to distil from; None: the network itself, if at all.
    """
    config, accelerator = run.config, run.accelerator
    trainable = _trainable(model, state)
    images = data.split("train")
    labels = labels_of(images) if config.class_weights or config.balanced_sampling else []
    counts = _images_by_output(labels, task)
    weights = None
    if config.balanced_sampling:
        by_output = balancing_weights(counts)
        weights = [by_output[task.indices[label]] for (label,) in labels]
    size = _update_size(config, accelerator)
    updates = UpdateSampler(len(images), size, config.seed, accelerator.process_index, weights)
    batches = train_loader(
        images, task.preprocessing, task.labels, updates, workers=config.workers,
        augmentation=Augmentation(config.hflip, config.aa, config.reprob),
    )  # fmt: skip
    objective = make_objective(
        config, len(task.classes), len(images), accelerator.device,
        counts=counts if config.class_weights else None,
        teacher=_teacher(model, task, run, teacher, resumes=state is not None),
    )  # fmt: skip
    own, of, images_held_out = accelerator.process_index, accelerator.num_processes, len(data.val)
    part = range(images_held_out * own // of, images_held_out * (own + 1) // of)
    measured = eval_loader(
        data.val, task.preprocessing, task.labels, batch_size=config.batch_size, workers=config.workers, part=part
    )
    recorder = Recorder(
        _measuring(measured, data, task, run),
        run.folder if run.writes else None,
        None if data.unlabelled else config.metric,  # the start agrees with itself best: no score finds a better epoch
        {"data": identity_of(data.name), "val_split": data.val_split, "seed": data.seed, **held_out_record(data)},
        provenance_of(model).history,
        run.on_progress,
    )
    return Trainer(
        model=model,
        average=_average(model, config),
        task=task,
        run=run,
        identity=data_identity(data),
        trainable=trainable,
        infinite=infinite_buffers(model),
        loop=Loop(updates, batches, objective, config, accelerator, run.on_progress),
        readers=(batches, measured),
        recorder=recorder,
    )


def checked_updates(data: Data, config: FinetuneConfig, accelerator: Accelerator) -> UpdateSampler:
    """The updates of an epoch.

    Raises:
        DataError: there are fewer training images than steps in an update.
    """
    images, size = len(data.split("train")), _update_size(config, accelerator)
    updates = UpdateSampler(images, size, config.seed)
    if updates.per_epoch == 0:
        raise DataError(
            f"{data.name} has {images} training images, but each update is shared out among {size.batches} steps.",
            hint="Use fewer processes or fewer --grad-accum-steps.",
        )
    return updates


def _update_size(config: FinetuneConfig, accelerator: Accelerator) -> UpdateSize:
    return UpdateSize(config.batch_size, config.grad_accum_steps, accelerator.num_processes)


def place(model: nn.Module, config: FinetuneConfig, accelerator: Accelerator) -> nn.Module:
    """Move ``model`` to the device and into the memory format of the run."""
    model.to(accelerator.device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def _measuring(loader: Any, data: Data, task: Task, run: RunContext) -> Callable[[nn.Module], Measured]:
    """A function that evaluates a network on all validation images; ``loader`` has those of this process."""
    names = dict(zip(task.indices, data.classes, strict=True))

    def watch(event: Event) -> None:
        run.on_progress(event)
        if run.accelerator.num_processes == 1:
            run.stop.heed()

    def measured(model: nn.Module) -> Measured:
        own = measure(model, loader, names, watch, multi_label=task.multi_label) if len(loader) else None
        return joined([found for found in from_all(own) if found is not None])

    return measured


def _teacher(
    model: nn.Module, task: Task, run: RunContext, other: OtherTeacher | None, *, resumes: bool
) -> nn.Module | None:
    from sesurgeon.surgery import save

    if run.config.distill == 0:
        return None
    path = run.folder.teacher
    teacher: nn.Module
    if other is not None:
        teacher = other
        if resumes:  # the network that was given may have learnt since
            take_weights(other.network, read_weights(path), str(path))
            check_is_the_kept(other.network, path)
        elif run.writes:
            save(other.network, path)
    elif resumes:
        teacher = restore_teacher(model, read_weights(path), str(path))
    else:
        teacher = make_teacher(model, torch.rand(2, *task.preprocessing.input_size))
        if run.writes:
            save(teacher, path)
    return place(teacher, run.config, run.accelerator)


def _trainable(model: nn.Module, state: RunState | None) -> frozenset[str]:
    """Names of the parameters that were not frozen when the run started."""
    if state is not None:
        return frozenset(state.trainable)
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def _average(model: nn.Module, config: FinetuneConfig) -> Any | None:
    from sesurgeon.finetune.training.ema import Average

    return Average(model, config.model_ema_decay) if config.model_ema else None


def _images_by_output(labels: Sequence[tuple[int, ...]], task: Task) -> list[int]:
    counts = [0] * len(task.classes)
    for label in chain.from_iterable(labels):
        counts[task.indices[label]] += 1
    return counts
