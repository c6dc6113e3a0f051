"""One epoch of training, update by update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from sesurgeon.errors import DivergedError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.readers import read
from sesurgeon.finetune.data.sampler import UpdateSampler
from sesurgeon.finetune.events import OnProgress, TrainStep
from sesurgeon.finetune.training.objective import Objective
from sesurgeon.finetune.training.phase_training import PhaseTraining
from sesurgeon.finetune.training.phases import set_train_mode
from sesurgeon.finetune.training.processes import any_of_all, from_all
from sesurgeon.finetune.training.sync_bn import synced_batch_norm
from sesurgeon.finetune.training.tally import Tally

if TYPE_CHECKING:
    from accelerate import Accelerator

_UPDATES_BETWEEN_LOOKS = 20  # on an accelerator, where reading the loss waits for the device
_BROKEN_IMAGES = "The images of that step are not finite themselves: look at the data."

AfterUpdate: TypeAlias = Callable[[int, Tally], None]
"""Called after each update with its number, counted from 1, and the losses of the epoch so far."""


@dataclass(frozen=True, eq=False)
class Loop:
    """What all updates of a run have in common.

    Attributes:
        updates: which images make which update.
        batches: a loader of the training images, in the order of ``updates``.
        objective: what is minimised.
        config: of the run: gradient clipping, memory format, sync_bn and precision.
        accelerator: devices and processes.
        on_progress: receives :class:`TrainStep`.
    """

    updates: UpdateSampler
    batches: Any
    objective: Objective
    config: FinetuneConfig
    accelerator: Accelerator
    on_progress: OnProgress

    def train_epoch(self, training: PhaseTraining, tally: Tally, after_update: AfterUpdate) -> None:
        """Train on the rest of the epoch at which ``updates`` stand.

        Args:
            training: the phase.
            tally: the epoch's losses, those from before the run was stopped included.
            after_update: is called after each update.

        Raises:
            DivergedError: the loss is not finite.
            DataError: a process that reads images died, or could not read one.
        """
        set_train_mode(training.model, training.phase, training.new)
        updates = self.updates
        finished = (updates.epoch - training.phase.first_epoch) * updates.per_epoch  # updates of the phase
        stream = read(self.batches)
        for update in range(updates.first, updates.per_epoch):
            lr = tally.lr = training.lr
            images = self._update(training, list(islice(stream, updates.size.steps)), update, tally)
            number = update + 1
            if number % self.updates_between_looks == 0 or number == updates.per_epoch:
                loss = self._look(tally, images, number)
                self.on_progress(TrainStep(updates.epoch, number, updates.per_epoch, loss, lr))
            training.set_rates(finished + number)
            if training.average is not None:
                training.average.update(training.model, updates.epoch * updates.per_epoch + number)
            after_update(number, tally)

    @property
    def updates_between_looks(self) -> int:
        """After how many updates the losses are read, which waits for the device."""
        return 1 if self.accelerator.device.type == "cpu" else _UPDATES_BETWEEN_LOOKS

    def _update(self, training: PhaseTraining, hand: list[tuple[Tensor, Tensor]], update: int, tally: Tally) -> Tensor:
        """One update of the weights, unless a loss on the CPU is not finite. Returns the images of its last step."""
        accelerator = self.accelerator
        alone = accelerator.num_processes == 1
        share = accelerator.num_processes / self.updates.images_of(update)  # an image's; processes average theirs
        images = torch.empty(0)
        for step, (images, labels) in enumerate(hand, start=1):
            images, labels = self._on_device(images, labels)
            images, targets = self.objective.mixed(images, labels)
            to_itself = contextlib.nullcontext() if step == len(hand) else accelerator.no_sync(training.wrapped)
            with to_itself, synced_batch_norm(active=self.config.sync_bn and not alone):
                with accelerator.autocast():
                    loss = self.objective.loss(training.wrapped(images), targets, images)
                tally.add(loss, len(labels))
                if loss.device.type == "cpu" and alone and not math.isfinite(loss.item()):
                    return images  # the weights stay as they were before this update
                accelerator.backward(loss * (len(labels) * share))
        if self.config.clip_grad is not None:
            accelerator.clip_grad_norm_(training.model.parameters(), self.config.clip_grad)
        training.optimizer.step()
        training.optimizer.zero_grad()
        return images

    def _on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.channels_last if self.config.channels_last else torch.preserve_format
        images = images.to(self.accelerator.device, non_blocking=True, memory_format=order)
        return images, labels.to(self.accelerator.device, non_blocking=True)

    def _look(self, tally: Tally, images: Tensor, number: int) -> float:
        """The mean loss so far, on this process; raises DivergedError if a loss is not finite on any process."""
        loss = tally.look()
        if any_of_all(self.accelerator, not math.isfinite(loss)):
            seen = from_all((loss, bool(images.isfinite().all())))
            broken, whole_images = next(pair for pair in seen if not math.isfinite(pair[0]))
            when = f"in epoch {self.updates.epoch + 1}, step {number} of {self.updates.per_epoch}"
            raise DivergedError(
                f"The loss is {broken} {when}, at learning rates up to {tally.lr:g}.",
                hint=self._why_not_finite() if whole_images else _BROKEN_IMAGES,
            )
        return loss

    def _why_not_finite(self) -> str:
        if self.config.amp and self.config.amp_dtype == "float16":
            return (
                "Numbers above 65,504 overflow in float16: start a new run with --amp-dtype bfloat16 or a lower --lr."
            )
        return "The learning rate is likely too high: start a new run with a lower --lr, or with --clip-grad 1."
