"""A phase in training: its optimiser, its schedule, its learning rates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.training.phases import Phase, param_groups, set_trainable
from sesurgeon.finetune.training.processes import wrap_model

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class PhaseTraining:
    """What training changes in a phase, beside the model itself.

    Attributes:
        model: the network.
        wrapped: the network as the loop calls it: for several processes, compiled.
        phase: which epochs, and what they train.
        new: paths of the modules that are new: inserted blocks, a new head.
        optimizer: over the parameters that the phase trains, as accelerate wraps it.
        scheduler: timm's, stepped after every update; None for constant rates.
        warmup: length of the linear warm-up, in updates.
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
        """Set the learning rates for the update that follows so many ``updates`` of the phase.

        timm's warm-up starts at a rate of 0. During warm-up the schedule is asked one update ahead, so that the first
        update already moves the weights.
        """
        step = updates + (updates < self.warmup)
        if self.scheduler is not None and step > 0:
            self.scheduler.step_update(step)

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
    average: Any | None = None,
) -> PhaseTraining:
    """Freeze or unfreeze the backbone, and make the optimiser and the schedule of ``phase``."""
    from timm.scheduler import create_scheduler_v2

    set_trainable(model, phase, new, trainable)
    model.zero_grad()  # of what the caller, or the phase before, left there
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
    wrapped = wrap_model(model, accelerator, compiled=config.compile)
    training = PhaseTraining(model, wrapped, phase, new, prepared, scheduler, warmup, average)
    training.set_rates(0)
    return training


def check_optimizer(config: FinetuneConfig, device: torch.device) -> None:
    """Refuse an optimiser that needs another device, or a package that is not installed.

    Raises:
        UsageError: the optimiser cannot be built on this device.
    """
    try:
        with warnings.catch_warnings():
            # without it Kron's sums take 110 GB for a convolution of 192 channels; timm only warns
            warnings.filterwarnings("error", message=".*opt_einsum")
            _make_optimizer([{"params": [nn.Parameter(torch.zeros(1, device=device))]}], config)
    except Exception as error:  # each of timm's optimisers raises its own kind
        raise UsageError(
            f"opt (={config.opt!r}) is not available here: {error}.", hint="Use adamw, sgd or lamb, which need nothing."
        ) from error


def _make_optimizer(groups: list[dict[str, Any]], config: FinetuneConfig) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, **_kernel(config.opt)
    )
    return optimizer


def _kernel(opt: str) -> dict[str, bool]:
    """Use the fused kernels of torch's own optimisers: a quarter of the time for ResNet-50 on a CPU."""
    from timm.optim import get_optimizer_info

    fused = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    return {"fused": True} if get_optimizer_info(opt).opt_class in fused else {}
