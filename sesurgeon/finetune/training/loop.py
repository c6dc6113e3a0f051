"""One epoch of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.events import OnProgress, TrainStep
from sesurgeon.finetune.scoring.outputs import main_logits
from sesurgeon.finetune.training.phases import Phase, enter, param_groups, set_train_mode

if TYPE_CHECKING:
    from accelerate import Accelerator

_STEPS_BETWEEN_LOOKS = 20  # on an accelerator, where looking at the loss waits for the device


@dataclass
class TrainState:
    """What training changes within a phase, and what a resumed run would have to put back.

    Attributes:
        model: as accelerate wraps it.
        phase: the epochs that this is about.
        new: paths of the modules that are new: inserted blocks, a new head.
        optimizer: over the parameters that the phase trains.
        scheduler: timm's, stepped after every update; None for constant rates.
        updates: how many there were in this phase.
    """

    model: nn.Module
    phase: Phase
    new: frozenset[str]
    optimizer: Any
    scheduler: Any
    updates: int = 0

    @property
    def lr(self) -> float:
        """The largest learning rate."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))


def start_phase(
    model: nn.Module,
    phase: Phase,
    new: frozenset[str],
    trainable: frozenset[str],
    config: FinetuneConfig,
    updates_per_epoch: int,
    accelerator: Accelerator,
) -> TrainState:
    """Freeze or release the backbone and make the phase's optimiser and schedule."""
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    enter(model, phase, new, trainable)
    optimizer = create_optimizer_v2(
        param_groups(model, new, config), opt=config.opt, lr=config.lr, weight_decay=config.weight_decay
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=phase.epochs,
        warmup_epochs=min(config.warmup_epochs, phase.epochs / 2),
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    prepared = accelerator.prepare_model(model)
    # accelerate's mark would travel with copies of the model, and keep it from wrapping them
    vars(model).pop("_is_accelerate_prepared", None)
    return TrainState(prepared, phase, new, accelerator.prepare_optimizer(optimizer), scheduler)


def train_epoch(
    state: TrainState,
    loader: Any,
    criterion: Callable[[Tensor, Tensor], Tensor],
    accelerator: Accelerator,
    epoch: int,
    on_progress: OnProgress,
) -> tuple[float, float]:
    """Train on every batch of ``loader`` once.

    Returns:
        the mean loss of the images, and the largest learning rate of the last step.

    Raises:
        SesurgeonError: the loss is not a finite number.
    """
    set_train_mode(state.model, state.phase, state.new)
    look_every = 1 if accelerator.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
    total, images_seen, lr = 0.0, 0, state.lr
    unseen: list[tuple[int, Tensor, int]] = []  # (step, loss, images) since the last look
    for step, (images, labels) in enumerate(loader, start=1):
        lr = state.lr
        loss = criterion(main_logits(state.model(images)), labels)
        unseen.append((step, loss.detach(), len(labels)))
        if step % look_every == 0 or step == len(loader):
            for number, value, count in unseen:
                _check_finite(value.item(), epoch, number, len(loader), lr)
                total += value.item() * count
                images_seen += count
            unseen.clear()
            on_progress(TrainStep(epoch, step, len(loader), total / images_seen, lr))
        accelerator.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.updates += 1
        if state.scheduler is not None:
            state.scheduler.step_update(state.updates)
    return total / images_seen, lr


def _check_finite(loss: float, epoch: int, step: int, steps: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise SesurgeonError(
            f"The loss is {loss} in epoch {epoch}, step {step} of {steps}, at the learning rate {lr:g}.",
            hint="Lower --lr or give --warmup-epochs. The run's last.pt holds the last whole epoch.",
        )
