"""Training through all phases, from the start or from a saved state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sesurgeon.errors import DivergedError
from sesurgeon.finetune.context import RunContext
from sesurgeon.finetune.events import NotResumable, PhaseStarted, RunStopped, StateWritten
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.records import epochs_since_best
from sesurgeon.finetune.keeping.states import RunState, refused_in, write_state
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training.loop import Loop
from sesurgeon.finetune.training.phase_training import PhaseTraining, start_phase
from sesurgeon.finetune.training.phases import Phase, changing_buffers
from sesurgeon.finetune.training.processes import any_of_all, average_buffers, from_all
from sesurgeon.finetune.training.state import Position, restore_training, training_state
from sesurgeon.finetune.training.stopping import StopAskedError
from sesurgeon.finetune.training.tally import Tally
from sesurgeon.words import some


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a network. Only the network, ``average`` and ``recorder`` change.

    Attributes:
        model: the network.
        average: timm's moving average of its weights; None without one.
        task: phases, and which modules are new.
        run: settings, processes and folder.
        identity: what must be the same about the data when the run is resumed.
        trainable: names of the parameters that were not frozen when the run started.
        infinite: names of the buffers that were not finite when the run started, and may stay so.
        loop: trains an epoch.
        readers: the loaders of training and validation images, whose processes end with the run.
        recorder: evaluates the network and writes the run's files.
    """

    model: nn.Module
    average: Any | None
    task: Task
    run: RunContext
    identity: Mapping[str, Any]
    trainable: frozenset[str]
    infinite: frozenset[str]
    loop: Loop
    readers: tuple[Any, ...]
    recorder: Recorder

    @property
    def shown(self) -> nn.Module:
        """The network that is evaluated and saved: the average if there is one."""
        return self.model if self.average is None else self.average.module

    def train(self, state: RunState | None = None) -> None:
        """Train through all phases, from the start or from ``state``.

        Raises:
            KeyboardInterrupt: the run was asked to stop, and a state was written.
            DivergedError: loss or weights are not finite.
            DataError, OutputError: images cannot be read, files cannot be written.
        """
        at = Position() if state is None else Position(state.epoch, state.update)
        tally: Tally | None = None  # nothing is trained yet
        for phase in self.task.phases:
            epochs = range(at.epoch, phase.end)
            if not epochs:
                continue
            training = start_phase(
                self.model, phase, self.task.new, self.trainable, self.run.config, self.loop.updates.per_epoch,
                self.run.accelerator, self.average,
            )  # fmt: skip
            if tally is None:
                tally = self._begin(training, at, state)
            self._announce(phase)
            for epoch in epochs:
                if self._has_stalled(phase):
                    self.run.on_progress(RunStopped(epoch))
                    return
                self._epoch(training, at, tally)
                at, tally = Position(epoch + 1), Tally()

    def _begin(self, training: PhaseTraining, start: Position, state: RunState | None) -> Tally:
        """Restore ``state`` in its phase, or write the first one. Returns the losses of the epoch so far."""
        if state is None:
            written = self._write(training, start, Tally())  # so that a run can be resumed wherever it is killed
            if written is not None and (refused := refused_in(written)) is not None:
                self.run.on_progress(NotResumable(refused))
            return Tally()
        tally = restore_training(state, training, self.run.accelerator)
        finished = (start.epoch - training.phase.first_epoch) * self.loop.updates.per_epoch + start.update
        training.set_rates(finished)
        return tally

    def _epoch(self, training: PhaseTraining, start: Position, tally: Tally) -> None:
        """Train the rest of an epoch, evaluate, and write everything down."""
        self.loop.updates.start(start.epoch, start.update)
        self.loop.train_epoch(training, tally, partial(self._after_update, training))
        self._average_buffers()
        trained = Position(start.epoch, self.loop.updates.per_epoch)
        if self.run.accelerator.num_processes > 1:  # they finish an evaluation even if asked to stop
            self._write(training, trained, tally)
        try:
            self._evaluate(training.phase, start.epoch, tally)
        except StopAskedError:
            self._write(training, trained, tally)
            raise
        self._write(training, Position(start.epoch + 1), Tally())
        if self._must_stop():
            raise KeyboardInterrupt

    def _after_update(self, training: PhaseTraining, number: int, tally: Tally) -> None:
        """Write a state if one is due or the run was asked to stop, and stop it then."""
        alone = self.run.accelerator.num_processes == 1
        stop = (alone or number % self.loop.updates_between_looks == 0) and self._must_stop()
        every = self.run.config.checkpoint_every
        due = every is not None and number % every == 0 and number < self.loop.updates.per_epoch
        if (stop or due) and not any_of_all(self.run.accelerator, not math.isfinite(tally.look())):
            self._write(training, Position(self.loop.updates.epoch, number), tally)
        if stop:
            raise KeyboardInterrupt

    def _average_buffers(self) -> None:
        changed = changing_buffers(self.model)
        average_buffers(self.run.accelerator, self.model, changed)
        if self.average is not None:
            average_buffers(self.run.accelerator, self.average.module, changed)

    def _evaluate(self, phase: Phase, epoch: int, tally: Tally) -> None:
        total, images = (sum(values) for values in zip(*from_all((tally.total, tally.images)), strict=True))
        found = self.recorder.record(self.shown, epoch, phase.name, total / images, tally.lr)
        self.recorder.milestones[f"after phase {self.task.phases.index(phase) + 1}"] = found  # so far

    def _write(self, training: PhaseTraining, position: Position, tally: Tally) -> Path | None:
        """Write a state. Returns its file; None on processes that write nothing."""
        self._check_weights(position)
        state = RunState(
            epoch=position.epoch,
            update=position.update,
            **training_state(training, tally, self.run.accelerator),
            new=sorted(self.task.new),
            new_head=self.task.new_head,
            notes=list(self.task.notes),
            trainable=sorted(self.trainable),
            recorder=self.recorder.state(),
            data=dict(self.identity),
        )
        if not self.run.writes:
            return None
        path = write_state(self.run.folder.states, state)
        self.run.on_progress(StateWritten(path, position.epoch, position.update))
        return path

    def _check_weights(self, position: Position) -> None:
        """Refuse to save weights from which no run could go on."""
        kept = {name: kept for name, kept in self.model.state_dict().items() if name not in self.infinite}
        tensors = {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}
        broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise DivergedError(
                f"Weights are not finite after {_when(position)}: {some(broken, 1)}. The state before is kept.",
                hint="A gradient overflowed: start a new run with a lower --lr, with --clip-grad 1 or --warmup-epochs.",
            )

    def _must_stop(self) -> bool:
        return any_of_all(self.run.accelerator, self.run.stop.asked)

    def _has_stalled(self, phase: Phase) -> bool:
        patience = self.run.config.patience
        if patience is None or phase is not self.task.phases[-1]:
            return False
        return epochs_since_best(self.recorder.rows, self.recorder.metric, phase.name) >= patience

    def _announce(self, phase: Phase) -> None:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        trained = sum(size for size, trains in sizes if trains)
        self.run.on_progress(PhaseStarted(phase, trained, sum(size for size, _ in sizes)))


def _when(position: Position) -> str:
    """In words, epochs counted from 1."""
    return f"step {position.update} of epoch {position.epoch + 1}" if position.update else f"epoch {position.epoch}"
