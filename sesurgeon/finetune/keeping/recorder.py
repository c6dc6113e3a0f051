"""The recorder of a run: after every epoch it evaluates the network and writes the run's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgeon.errors import DivergedError
from sesurgeon.finetune.events import EpochFinished, OnProgress
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.scoring.measured import Measured, restored
from sesurgeon.models.provenance import attach_provenance, provenance_of


class Recorder:
    """Evaluates the network and writes the results.

    Args:
        measure: evaluates a network on the validation images, on all processes together.
        folder: where the files go; None on processes that write nothing.
        metric: the score that chooses the best epoch; None if no score can: the last epoch counts as the best then.
        settings: what the checkpoints' history says about this run, beside the numbers of the epoch.
        history: of the network before this run.
        on_progress: receives :class:`EpochFinished`.

    Attributes:
        rows: one per epoch; the first is the state before training.
        best: the evaluation of the best epoch; there is none before the first :meth:`record`.
        milestones: the evaluations that the report compares, by name.
        notes: sentences about the beginning of the run, for the report.
        held: the epoch in ``best.pt``, if it is better than all of ``rows``: the run was stopped after it, and went on
            from a state before it.
    """

    best: Measured

    def __init__(
        self,
        measure: Callable[[nn.Module], Measured],
        folder: RunFolder | None,
        metric: str | None,
        settings: Mapping[str, Any],
        history: tuple[Mapping[str, Any], ...],
        on_progress: OnProgress,
    ) -> None:
        self.measure = measure
        self.folder = folder
        self.metric = metric
        self.settings = settings
        self.history = history
        self.on_progress = on_progress
        self.rows: tuple[EpochRow, ...] = ()
        self.milestones: dict[str, Measured] = {}
        self.notes: tuple[str, ...] = ()
        self.held: EpochRow | None = None

    def record(
        self, model: nn.Module, epoch: int, phase: str = "", train_loss: float | None = None, lr: float | None = None
    ) -> Measured:
        """Evaluate ``model`` after ``epoch`` (-1: before training) and write checkpoints, rows and metrics.

        Raises:
            DivergedError: the model's outputs are not finite; nothing is written then.
            OutputError: a file cannot be written; the one that it was to replace stays whole.
        """
        found = self.measure(model)
        if not math.isfinite(found.loss):
            when = "before training" if epoch < 0 else f"after epoch {epoch + 1}"
            raise DivergedError(
                f"The validation loss is {found.loss} {when}.",
                hint="The model's outputs are not finite. Check its weights, or lower --lr.",
            )
        row = EpochRow(epoch, phase, train_loss, found.scores(), lr)
        self.rows = (*self.rows, row)
        is_best = best_of(self.rows, self.metric) is row
        if is_best:  # as the first row always is
            self.best = found
        if self.folder is not None:
            if is_best and self.held is not None and best_of((row, self.held), self.metric) is row:
                self.held = None
            self._write(self.folder, model, row, is_best=is_best and self.held is None)
        self.on_progress(EpochFinished(row, is_best and self.metric is not None))
        return found

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, as plain data and tensors."""
        return {
            "history": [dict(record) for record in self.history],
            "rows": [row.to_dict() for row in self.rows],
            "best": self.best.to_dict(),
            "milestones": {name: found.to_dict() for name, found in self.milestones.items()},
            "notes": list(self.notes),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another recorder, from its :meth:`state`."""
        self.history = tuple(state["history"])
        self.rows = tuple(EpochRow.from_dict(row) for row in state["rows"])
        self.best = restored(state["best"])
        self.milestones = {name: restored(found) for name, found in state["milestones"].items()}
        self.notes = tuple(state["notes"])
        if self.folder is not None and self.metric is not None:
            held, best = self.folder.read_best_row(), best_of(self.rows, self.metric)
            self.held = held if held is not None and best_of((best, held), self.metric) is not best else None

    def _write(self, folder: RunFolder, model: nn.Module, row: EpochRow, *, is_best: bool) -> None:
        record = {"command": "finetune", **self.settings, **row.to_dict()}
        attach_provenance(model, replace(provenance_of(model), history=(*self.history, record)))
        folder.write_checkpoints(model, is_best=is_best)
        folder.write_rows(self.rows, self.best, self.metric)
