"""A run from its first update to its last, or to where it is asked to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sesurgeon.errors import DivergedError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.updates import UpdateSampler
from sesurgeon.finetune.events import OnProgress, PhaseStarted, RunStopped, StateWritten
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training.engine import any_of_all, average_buffers, sums_over_all
from sesurgeon.finetune.training.loop import Loop
from sesurgeon.finetune.training.objective import Objective
from sesurgeon.finetune.training.phase_training import PhaseTraining, start_phase
from sesurgeon.finetune.training.phases import Phase, changing_buffers
from sesurgeon.finetune.training.signals import StopAskedError, StopRequest
from sesurgeon.finetune.training.state import Position, captured, put_back_training
from sesurgeon.finetune.training.tally import Tally
from sesurgeon.words import some

if TYPE_CHECKING:
    from accelerate import Accelerator

WriteState = Callable[[int, int, Mapping[str, Any]], Path]


@dataclass(frozen=True, eq=False)
class Trainer:
    """What a run works with. Only the network and what ``recorder`` and ``average`` hold change.

    Attributes:
        model: the network.
        average: timm's moving average of its weights; None without one.
        task: phases, and what is new.
        trainable: names of the parameters that were not frozen when the network came.
        infinite: names of the buffers that were not finite then, and may stay so.
        config: of the run.
        accelerator: the machine.
        updates: which images make which update.
        batches: a loader of them.
        readers: that one and the loader of the validation images: their processes end with the run.
        objective: what is minimised.
        recorder: evaluates and writes.
        write_state: keeps a state under its epoch and update; None on processes that write nothing.
        stop: whether somebody asked the run to stop.
        on_progress: gets the events.
    """

    model: nn.Module
    average: Any | None
    task: Task
    trainable: frozenset[str]
    infinite: frozenset[str]
    config: FinetuneConfig
    accelerator: Accelerator
    updates: UpdateSampler
    batches: Any
    readers: tuple[Any, ...]
    objective: Objective
    recorder: Recorder
    write_state: WriteState | None
    stop: StopRequest
    on_progress: OnProgress

    @property
    def shown(self) -> nn.Module:
        """The network that is evaluated and written: the average, where there is one."""
        return self.model if self.average is None else self.average.module

    def train(self, resumed: Mapping[str, Any] | None = None) -> None:
        """Train through all phases, from the start or from a state.

        Raises:
            KeyboardInterrupt: the run was asked to stop, and a state was written.
            DivergedError: loss or weights are not finite.
            DataError, OutputError: images that cannot be read, files that cannot be written.
        """
        for phase in self.task.phases:
            end = phase.first_epoch + phase.epochs
            first = phase.first_epoch if resumed is None else max(phase.first_epoch, resumed["epoch"])
            if first >= end:
                continue
            training = start_phase(
                self.model, phase, self.task.new, self.trainable, self.config, self.updates.per_epoch, self.accelerator,
                self.average,
            )  # fmt: skip
            tally, update = Tally(), 0
            if resumed is not None:
                tally, update = put_back_training(resumed, training, self.accelerator), resumed["update"]
                resumed = None
                training.set_rates((first - phase.first_epoch) * self.updates.per_epoch + update)
            elif phase is self.task.phases[0]:
                self._write(training, Position(first), tally)  # so that a run can be resumed wherever it is killed
            self._announce(phase)
            for epoch in range(first, end):
                if self._has_stalled(phase):
                    self.on_progress(RunStopped(epoch))
                    return
                self._epoch(training, epoch, update, tally)
                tally, update = Tally(), 0

    def _epoch(self, training: PhaseTraining, epoch: int, update: int, tally: Tally) -> None:
        """Train on what is left of an epoch, evaluate, and write everything down."""
        self.updates.start(epoch, update)
        loop = Loop(self.updates, self.batches, self.objective, self.config, self.accelerator, self.on_progress)

        def after_update(number: int, tally: Tally) -> None:
            alone = self.accelerator.num_processes == 1
            stop = (alone or number % loop.updates_between_looks == 0) and self._must_stop()
            every = self.config.checkpoint_every
            due = every is not None and number % every == 0 and number < self.updates.per_epoch
            if (stop or due) and not any_of_all(self.accelerator, not math.isfinite(tally.look())):
                self._write(training, Position(epoch, number), tally)
            if stop:
                raise KeyboardInterrupt

        loop.train_epoch(training, tally, after_update)
        changed = changing_buffers(self.model)
        average_buffers(self.accelerator, self.model, changed)
        if self.average is not None:
            average_buffers(self.accelerator, self.average.module, changed)
        if self.accelerator.num_processes > 1:  # which finish an evaluation that is under way, whoever asks
            self._write(training, Position(epoch, self.updates.per_epoch), tally)
        try:
            self._evaluate(training.phase, epoch, tally)
        except StopAskedError:
            self._write(training, Position(epoch, self.updates.per_epoch), tally)
            raise KeyboardInterrupt from None
        self._write(training, Position(epoch + 1), Tally())
        if self._must_stop():
            raise KeyboardInterrupt

    def _evaluate(self, phase: Phase, epoch: int, tally: Tally) -> None:
        total, images = sums_over_all(self.accelerator, tally.total, tally.images)
        found = self.recorder.record(self.shown, epoch, phase.name, total / images, tally.lr)
        self.recorder.milestones[f"after phase {self.task.phases.index(phase) + 1}"] = found  # so far

    def _write(self, training: PhaseTraining, position: Position, tally: Tally) -> None:
        self._check_weights(position)
        state = {
            **captured(training, position, tally, self.accelerator),
            "new": sorted(self.task.new),
            "new_head": self.task.new_head,
            "notes": list(self.task.notes),
            "trainable": sorted(self.trainable),
            "recorder": self.recorder.state(),
        }
        if self.write_state is not None:
            path = self.write_state(position.epoch, position.update, state)
            self.on_progress(StateWritten(path, position.epoch, position.update))

    def _check_weights(self, position: Position) -> None:
        """Refuse to keep weights from which no run could go on."""
        kept = {name: kept for name, kept in self.model.state_dict().items() if name not in self.infinite}
        tensors = {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}
        broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise DivergedError(
                f"Weights are not finite after {_when(position)}: {some(broken, 1)}. The state before is kept.",
                hint="A gradient overflowed: start a new run with a lower --lr, with --clip-grad 1 or --warmup-epochs.",
            )

    def _must_stop(self) -> bool:
        return any_of_all(self.accelerator, self.stop.asked)

    def _has_stalled(self, phase: Phase) -> bool:
        patience = self.config.patience
        return (
            patience is not None
            and phase is self.task.phases[-1]
            and self.recorder.epochs_without_gain(phase.name) >= patience
        )

    def _announce(self, phase: Phase) -> None:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        trained = sum(size for size, trains in sizes if trains)
        self.on_progress(PhaseStarted(phase, trained, sum(size for size, _ in sizes)))


def _when(position: Position) -> str:
    """In words, epochs counted from 1."""
    return f"step {position.update} of epoch {position.epoch + 1}" if position.update else f"epoch {position.epoch}"
