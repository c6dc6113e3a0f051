"""Saving and restoring the state of training, so that a resumed run goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.keeping.states import RunState
from sesurgeon.finetune.training.phase_training import PhaseTraining
from sesurgeon.finetune.training.phases import changing_buffers
from sesurgeon.finetune.training.processes import from_all
from sesurgeon.finetune.training.tally import Tally
from sesurgeon.randomness import random_states_to_keep, restore_kept_random_states

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Position:
    """How far a run is: ``update`` updates of ``epoch`` are done."""

    epoch: int = 0
    update: int = 0


def training_state(training: PhaseTraining, tally: Tally, accelerator: Accelerator) -> dict[str, Any]:
    """The fields of :class:`RunState` that belong to training. All processes must call this together."""
    scaler = accelerator.scaler
    own = {"random": random_states_to_keep(), "tally": [tally.total, tally.images, tally.lr]}
    if accelerator.num_processes > 1:
        own["buffers"] = _statistics(training)
    return {
        "phase": training.phase.name,
        "model": training.model.state_dict(),
        "average": None if training.average is None else training.average.module.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "processes": from_all(own),
    }


def restore_weights(state: RunState, model: nn.Module, average: Any | None) -> None:
    """Load the weights of the network and its moving average, into modules of the same architecture."""
    model.load_state_dict(state.model)
    if average is not None:
        average.module.load_state_dict(state.average)


def restore_training(state: RunState, training: PhaseTraining, accelerator: Accelerator) -> Tally:
    """Restore optimiser, scaler, BatchNorm statistics and random numbers; returns the losses of the epoch so far."""
    if state.phase == training.phase.name:
        training.optimizer.load_state_dict(state.optimizer)
    if accelerator.scaler is not None and state.scaler is not None:
        accelerator.scaler.load_state_dict(state.scaler)
    own = state.processes[accelerator.process_index]
    for part, buffers in _buffers(training).items():
        for name, kept in own.get("buffers", {}).get(part, {}).items():
            buffers[name].copy_(kept)
    restore_kept_random_states(own["random"])
    return Tally(*own["tally"])


def check_processes(state: RunState, processes: int) -> None:
    """Refuse to resume a run with another number of processes.

    Raises:
        UsageError: the numbers differ.
    """
    before = len(state.processes)
    if before != processes:
        raise UsageError(
            f"The run was started on {before} process{'es' if before > 1 else ''} and cannot go on with {processes}: "
            "its updates would be made of other images.",
            hint=f"Give --num-processes {before}, or start a new run from its last.pt.",
        )


def _statistics(training: PhaseTraining) -> dict[str, dict[str, Tensor]]:
    """BatchNorm's statistics, of the network and of its average: within an epoch each process has its own."""
    names = changing_buffers(training.model)
    return {part: {name: buffers[name].cpu() for name in names} for part, buffers in _buffers(training).items()}


def _buffers(training: PhaseTraining) -> dict[str, dict[str, Tensor]]:
    parts = {"model": training.model, **({} if training.average is None else {"average": training.average.module})}
    return {part: dict(module.named_buffers(remove_duplicate=False)) for part, module in parts.items()}
