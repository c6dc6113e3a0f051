"""A phase under way: what it trains, with which optimiser, at which rates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.training.engine import shared
from sesurgeon.finetune.training.phases import Phase, enter, param_groups

if TYPE_CHECKING:
    from accelerate import Accelerator


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
        UsageError: the optimiser cannot be built on this device.
    """
    try:
        with warnings.catch_warnings():
            # without it Kron's sums take 110 GB for a convolution of 192 channels; timm only warns
            warnings.filterwarnings("error", message=".*opt_einsum")
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
