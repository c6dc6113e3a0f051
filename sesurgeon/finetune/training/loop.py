"""One epoch of training, update by update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from sesurgeon.errors import DivergedError, UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.loader import read
from sesurgeon.finetune.data.updates import Updates
from sesurgeon.finetune.events import OnProgress, TrainStep
from sesurgeon.finetune.training.engine import any_of_all, from_all, shared
from sesurgeon.finetune.training.objective import Objective
from sesurgeon.finetune.training.phases import Phase, enter, param_groups, set_train_mode
from sesurgeon.finetune.training.sync_bn import synced_batch_norm

if TYPE_CHECKING:
    from accelerate import Accelerator

_UPDATES_BETWEEN_LOOKS = 20  # on an accelerator, where looking at the loss waits for the device


@dataclass
class PhaseTraining:
    """What training changes within a phase, beside the model itself.

    Attributes:
        model: the network.
        wrapped: the network as it is called: gradients shared between processes, compiled.
        phase: the epochs that this is about.
        new: paths of the modules that are new: inserted blocks, a new head.
        optimizer: over the parameters that the phase trains, as accelerate wraps it.
        scheduler: timm's, stepped after every update; None for constant rates.
        warmup: updates of a linear warm-up.
        average: timm's moving average of the weights; None without one.
    """

    model: nn.Module
    wrapped: nn.Module
    phase: Phase
    new: frozenset[str]
    optimizer: Any
    scheduler: Any
    warmup: float
    average: Any | None = None

    def set_rates(self, updates: int) -> None:
        """Set the learning rates as they are after so many updates of the phase.

        Warm-up goes up from 0, and is a step ahead: the first update shall not be in vain.
        """
        step = updates + (updates < self.warmup)
        if self.scheduler is not None and step > 0:
            self.scheduler.step_update(step)

    @property
    def lr(self) -> float:
        """The largest learning rate."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))


@dataclass
class Tally:
    """The losses of an epoch so far, on this process, and the largest learning rate of the last update."""

    total: float = 0.0
    images: int = 0
    lr: float = 0.0
    unseen: list[tuple[Tensor, int]] = field(default_factory=list)

    def add(self, loss: Tensor, images: int) -> None:
        """Take in the mean ``loss`` of some images, without looking at it yet."""
        self.unseen.append((loss.detach(), images))

    def look(self) -> float:
        """The last loss that is not a finite number, or the mean so far."""
        for loss, images in self.unseen:
            value = loss.item()
            if not math.isfinite(value):
                return value
            self.total += value * images
            self.images += images
        self.unseen.clear()
        return self.mean

    @property
    def mean(self) -> float:
        return self.total / max(self.images, 1)


AfterUpdate: TypeAlias = Callable[[int, Tally], None]
"""Called after each update with its number, counted from 1, and when it was looked at, the losses so far."""


def start_phase(
    model: nn.Module,
    phase: Phase,
    new: frozenset[str],
    trainable: frozenset[str],
    config: FinetuneConfig,
    updates_per_epoch: int,
    accelerator: Accelerator,
    average: Any | None = None,
) -> PhaseTraining:
    """Freeze or release the backbone and make the phase's optimiser and schedule."""
    from timm.scheduler import create_scheduler_v2

    enter(model, phase, new, trainable)
    optimizer = _make_optimizer(param_groups(model, new, config), config)
    warmup = min(config.warmup_epochs, phase.longest_warmup) * updates_per_epoch
    warmup = warmup if warmup >= 1 else 0.0
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=phase.epochs,
        warmup_epochs=warmup / updates_per_epoch,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    accelerator.free_memory()  # accelerate keeps the optimiser of the phase before
    prepared = accelerator.prepare_optimizer(optimizer)
    wrapped = shared(model, accelerator, compiled=config.compile)
    training = PhaseTraining(model, wrapped, phase, new, prepared, scheduler, warmup, average)
    training.set_rates(0)
    return training


def check_optimizer(config: FinetuneConfig, device: torch.device) -> None:
    """Refuse an optimiser that wants another device, or a package that is not installed.

    Raises:
        UsageError: so it is.
    """
    try:
        _make_optimizer([{"params": [nn.Parameter(torch.zeros(1, device=device))]}], config)
    except Exception as error:  # each of timm's says it in its own way
        raise UsageError(
            f"opt (={config.opt!r}) cannot be had here: {error}.", hint="Take adamw, sgd or lamb, which need nothing."
        ) from error


def _make_optimizer(groups: list[dict[str, Any]], config: FinetuneConfig) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, **_kernel(config.opt)
    )
    return optimizer


def _kernel(opt: str) -> dict[str, bool]:
    """Torch's own optimisers can update all parameters at once: a quarter of the time for ResNet-50 on a CPU."""
    from timm.optim import get_optimizer_info

    fused = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    return {"fused": True} if get_optimizer_info(opt).opt_class in fused else {}


def train_epoch(
    training: PhaseTraining,
    batches: Any,
    updates: Updates,
    objective: Objective,
    config: FinetuneConfig,
    accelerator: Accelerator,
    tally: Tally,
    after_update: AfterUpdate,
    on_progress: OnProgress,
) -> None:
    """Train on what is left of an epoch.

    Args:
        training: the phase.
        batches: a loader of ``updates``' batches.
        updates: which images come, and from which update on.
        objective: what is minimised.
        config: clipping, memory order.
        accelerator: the machine.
        tally: the epoch's losses, so far none unless it was taken up in its middle.
        after_update: is called after each update.
        on_progress: gets :class:`TrainStep`.

    Raises:
        DivergedError: the loss is not a finite number.
        DataError: a process that reads images died, or could not read one.
    """
    set_train_mode(training.model, training.phase, training.new)
    look_every = updates_between_looks(accelerator)
    finished = (updates.epoch - training.phase.first_epoch) * updates.updates  # updates of the phase
    stream = read(batches)
    for update in range(updates.first, updates.updates):
        lr = tally.lr = training.lr
        hand = list(islice(stream, updates.shape.steps))
        images = _update(training, hand, updates, update, objective, config, accelerator, tally)
        number = update + 1
        if number % look_every == 0 or number == updates.updates:
            loss = tally.look()
            if any_of_all(accelerator, not math.isfinite(loss)):
                seen = from_all(accelerator, (loss, bool(images.isfinite().all())))
                broken, whole = next(pair for pair in seen if not math.isfinite(pair[0]))
                raise _not_finite(broken, updates, number, lr, config, whole_images=whole)
            on_progress(TrainStep(updates.epoch, number, updates.updates, loss, lr))
        training.set_rates(finished + number)
        if training.average is not None:
            training.average.update(training.model, updates.epoch * updates.updates + number)
        after_update(number, tally)


def updates_between_looks(accelerator: Accelerator) -> int:
    """After how many updates losses are looked at: looking waits for the device."""
    return 1 if accelerator.device.type == "cpu" else _UPDATES_BETWEEN_LOOKS


def _update(
    training: PhaseTraining,
    hand: list[tuple[Tensor, Tensor]],
    updates: Updates,
    update: int,
    objective: Objective,
    config: FinetuneConfig,
    accelerator: Accelerator,
    tally: Tally,
) -> Tensor:
    """One update of the weights, unless a loss on the CPU is not finite; the images of its last step."""
    syncs = config.sync_bn and accelerator.num_processes > 1
    share = accelerator.num_processes / updates.size(update)  # of an image; processes' gradients are averaged
    images = torch.empty(0)
    for step, (images, labels) in enumerate(hand, start=1):
        images, labels = _on_device(images, labels, config, accelerator)
        images, targets = objective.mixed(images, labels)
        alone = contextlib.nullcontext() if step == len(hand) else accelerator.no_sync(training.wrapped)
        with alone, synced_batch_norm(active=syncs):
            with accelerator.autocast():
                loss = objective.loss(training.wrapped(images), targets, images)
            tally.add(loss, len(labels))
            if loss.device.type == "cpu" and not math.isfinite(loss.item()) and accelerator.num_processes == 1:
                return images  # the weights stay as they were before this update
            accelerator.backward(loss * (len(labels) * share))
    if config.clip_grad is not None:
        accelerator.clip_grad_norm_(training.model.parameters(), config.clip_grad)
    training.optimizer.step()
    training.optimizer.zero_grad()
    return images


def _on_device(
    images: Tensor, labels: Tensor, config: FinetuneConfig, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    order = torch.channels_last if config.channels_last else torch.preserve_format
    images = images.to(accelerator.device, non_blocking=True, memory_format=order)
    return images, labels.to(accelerator.device, non_blocking=True)


def _not_finite(
    loss: float, updates: Updates, number: int, lr: float, config: FinetuneConfig, *, whole_images: bool
) -> DivergedError:
    if not whole_images:
        cause = "The images of that step are not finite themselves: look at the data."
    elif config.amp and config.amp_dtype == "float16":
        cause = "Numbers above 65,504 overflow in float16: start a new run with --amp-dtype bfloat16 or a lower --lr."
    else:
        cause = "The learning rate is likely too high: start a new run with a lower --lr, or with --clip-grad 1."
    when = f"in epoch {updates.epoch + 1}, step {number} of {updates.updates}, at the learning rate {lr:g}"
    return DivergedError(f"The loss is {loss} {when}.", hint=cause)
