"""Keeping a run: after every epoch it is evaluated and its files are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgeon.errors import DivergedError
from sesurgeon.finetune.events import EpochFinished, OnProgress
from sesurgeon.finetune.keeping.records import EpochRow, best_of, epochs_since_best
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.scoring.measured import Measured, restored
from sesurgeon.models.provenance import attach_provenance, provenance_of


class Recorder:
    """Evaluates the network and writes what came of it.

    Args:
        measure: evaluates a network on the validation images, on all processes.
        folder: where the files go; None on processes that write nothing.
        metric: by which the best epoch is chosen; None for the last, where no score tells which one is best.
        settings: what the checkpoints' history says of this run, beside the epoch's numbers.
        history: of the network before this run.
        on_progress: gets :class:`EpochFinished`.

    Attributes:
        rows: one an epoch; the first is the state before training.
        best: the evaluation of the best epoch.
        milestones: evaluations that the report compares, by name.
        notes: what the report says of the run's beginning, in sentences.
    """

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
        self.best: Measured | None = None
        self.milestones: dict[str, Measured] = {}
        self.notes: tuple[str, ...] = ()

    def record(
        self, model: nn.Module, epoch: int, phase: str = "", train_loss: float | None = None, lr: float | None = None
    ) -> Measured:
        """Evaluate ``model`` after ``epoch`` (-1: before training) and write checkpoints, rows and metrics.

        Raises:
            DivergedError: the model's outputs are not finite numbers; nothing is written then.
            OutputError: a file cannot be written; the one before stays whole.
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
        self.best = found if is_best or self.best is None else self.best
        if self.folder is not None:
            self._write(self.folder, model, row, self.best, is_best)
        self.on_progress(EpochFinished(row, is_best and self.metric is not None))
        return found

    def epochs_without_gain(self, phase: str) -> int:
        """Epochs of ``phase`` since the best one."""
        return epochs_since_best(self.rows, self.metric, phase)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes, as plain data and tensors."""
        return {
            "history": [dict(record) for record in self.history],
            "rows": [row.to_dict() for row in self.rows],
            "best": None if self.best is None else self.best.to_dict(),
            "milestones": {name: found.to_dict() for name, found in self.milestones.items()},
            "notes": list(self.notes),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another recorder was."""
        self.history = tuple(state["history"])
        self.rows = tuple(EpochRow.from_dict(row) for row in state["rows"])
        self.best = None if state["best"] is None else restored(state["best"])
        self.milestones = {name: restored(found) for name, found in state["milestones"].items()}
        self.notes = tuple(state.get("notes", ()))  # a state of an older sesurgeon has none

    def _write(self, folder: RunFolder, model: nn.Module, row: EpochRow, best: Measured, is_best: bool) -> None:
        record = {"command": "finetune", **self.settings, **row.to_dict()}
        attach_provenance(model, replace(provenance_of(model), history=(*self.history, record)))
        folder.write_checkpoints(model, is_best=is_best)
        folder.write_rows(self.rows, best, self.metric)
