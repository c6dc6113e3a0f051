"""Keeping a run: after every epoch it is evaluated and its files are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from sesurgeon.errors import SesurgeonError
from sesurgeon.finetune.events import EpochFinished, OnProgress
from sesurgeon.finetune.keeping.records import EpochRow
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.scoring.evaluation import Batches, measure
from sesurgeon.finetune.scoring.scores import Evaluation
from sesurgeon.models.provenance import attach_provenance, provenance_of


class Recorder:
    """Evaluates the model and writes what came of it.

    Args:
        model: the model itself, not as accelerate wraps it.
        batches: the validation images.
        classes: names of the data's classes by output index.
        folder: where the files go.
        settings: what the checkpoints' history says of this run, beside the epoch's numbers.
        on_progress: gets :class:`EvaluationStep` and :class:`EpochFinished`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        classes: Mapping[int, str],
        folder: RunFolder,
        settings: Mapping[str, Any],
        on_progress: OnProgress,
    ) -> None:
        self.model = model
        self.batches = batches
        self.classes = classes
        self.folder = folder
        self.settings = settings
        self.on_progress = on_progress
        self.provenance = provenance_of(model)
        self.rows: tuple[EpochRow, ...] = ()
        self.best: Evaluation | None = None

    def record(self, epoch: int, phase: str = "", train_loss: float | None = None, lr: float | None = None) -> None:
        """Evaluate after ``epoch`` (-1: before training) and write checkpoints, rows and metrics.

        Raises:
            SesurgeonError: the model's outputs are not finite numbers; nothing is written then.
            OutputError: a file cannot be written; the one before stays whole.
        """
        found = measure(self.model, self.batches, self.classes, self.on_progress)
        if not math.isfinite(found.loss):
            when = "before training" if epoch < 0 else f"after epoch {epoch}"
            raise SesurgeonError(
                f"The validation loss is {found.loss} {when}.",
                hint="The model's outputs are not finite. Check its weights, or lower --lr.",
            )
        row = EpochRow(epoch, phase, train_loss, found.loss, found.top1, found.top5, lr)
        best = found if self.best is None or found.top1 > self.best.top1 else self.best
        is_best = best is found
        self.best = best
        self.rows = (*self.rows, row)
        record = {"command": "finetune", **self.settings, **asdict(row)}
        attach_provenance(self.model, replace(self.provenance, history=(*self.provenance.history, record)))
        self.folder.write_checkpoints(self.model, is_best=is_best)
        self.folder.write_rows(self.rows, best)
        self.on_progress(EpochFinished(row, is_best))
