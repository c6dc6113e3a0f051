"""Everything that a resumed run puts back, so that it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.data.randomness import random_states_to_keep, set_random_states
from sesurgeon.finetune.training.engine import from_all
from sesurgeon.finetune.training.loop import PhaseTraining, Tally

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Position:
    """How far a run is: ``update`` updates of ``epoch`` are done."""

    epoch: int = 0
    update: int = 0


def captured(training: PhaseTraining, position: Position, tally: Tally, accelerator: Accelerator) -> dict[str, Any]:
    """The state of training as plain data and tensors. All processes must ask together."""
    scaler = accelerator.scaler
    return {
        "epoch": position.epoch,
        "update": position.update,
        "phase": training.phase.name,
        "model": training.model.state_dict(),
        "average": None if training.average is None else training.average.module.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "processes": from_all(
            accelerator, {"random": random_states_to_keep(), "tally": [tally.total, tally.images, tally.lr]}
        ),
    }


def put_back_weights(state: Mapping[str, Any], model: nn.Module, average: Any | None) -> None:
    """The network and its moving average, into modules of the same architecture."""
    model.load_state_dict(state["model"])
    if average is not None:
        average.module.load_state_dict(state["average"])


def put_back_training(state: Mapping[str, Any], training: PhaseTraining, accelerator: Accelerator) -> Tally:
    """Optimiser, scaler and random numbers of a phase that is taken up again; the losses of its epoch so far."""
    if state["phase"] == training.phase.name:
        training.optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    own = state["processes"][accelerator.process_index]
    set_random_states(own["random"])
    return Tally(*own["tally"])


def check_processes(state: Mapping[str, Any], processes: int) -> None:
    """Refuse to go on with another number of processes.

    Raises:
        UsageError: each process has random numbers of its own, and an update has so many times the batch.
    """
    before = len(state["processes"])
    if before != processes:
        raise UsageError(
            f"The run was started on {before} process{'es' if before > 1 else ''} and cannot go on with {processes}: "
            "its updates would be made of other images.",
            hint=f"Give --num-processes {before}, or start a new run from its last.pt.",
        )
