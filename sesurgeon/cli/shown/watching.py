"""The events of a run as bars and lines. This file imports torch, so commands import it when they run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from types import MappingProxyType

from rich.progress import Progress

from sesurgeon.cli.shown.console import Output
from sesurgeon.cli.shown.images import held_out, skipped_note
from sesurgeon.cli.shown.scoring import number, score_label, score_text, usual_score
from sesurgeon.finetune import (
    BlocksCalibrated,
    EpochFinished,
    EpochRow,
    EvaluationStep,
    Event,
    ImagesChecked,
    NotResumable,
    PhaseStarted,
    RunResumed,
    RunStarted,
    RunStopped,
    StateWritten,
    TrainStep,
)
from sesurgeon.words import counted

PHASES: Mapping[str, str] = MappingProxyType({"blocks": "new parts", "all": "everything"})


class Watcher:
    """Shows events: bars on a terminal, and one line per epoch, unless ``out`` is quiet.

    Args:
        out: where the lines go.
        progress: where the bars go.
        epochs: of the whole run; 0 if nothing is trained.
        metric: the score to show.

    Attributes:
        started: the run, once its folder exists.
        rows: the finished epochs.
        state: the last state that was written to resume from.
        resumable: whether states can be read back.
    """

    def __init__(self, out: Output, progress: Progress, *, epochs: int = 0, metric: str = "top1") -> None:
        self.out = out
        self.progress = progress
        self.epochs = epochs
        self.metric = metric
        self.started: RunStarted | None = None
        self.rows: list[EpochRow] = []
        self.state: StateWritten | None = None
        self.resumable = True
        self._bar = progress.add_task("", total=None, visible=False)
        self._shown = ""
        self._phase = ""
        self._epoch_began = time.perf_counter()
        self._speed = ""
        self._first_step = 0
        self._train_images = 0

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case ImagesChecked(done, total):
                self.show("Checking images", "", done, total)
            case RunStarted():
                self.started = event
                self._say_start(event)
            case BlocksCalibrated(calibration):
                self.out.note(str(calibration))
            case PhaseStarted(phase, trained, parameters):
                self._phase = phase.name
                what = f"{counted(phase.epochs, 'epoch')}, {PHASES[phase.name]}"
                self.out.note(f"{what}: {trained:,} of {parameters:,} parameters are trained.")
                self._epoch_began = time.perf_counter()
            case TrainStep(epoch, step, steps, loss):
                self._speed = self._images_a_second((step - self._first_step) / steps)
                what = f"epoch {epoch + 1}/{self.epochs} {self._phase}"
                score = f" {self._score(self.rows[-1])}" if self.rows else ""
                self.show(what, f" loss {number(loss)}{score} {self._speed} img/s", step, steps)
            case EvaluationStep(step, steps):
                self.show("Evaluating", "", step, steps)
            case EpochFinished(row, is_best):
                self.rows.append(row)
                self._first_step = 0
                self.out.note(self._line(row, is_best))
                self._epoch_began = time.perf_counter()
            case StateWritten():
                self.state = event
            case NotResumable(refused):
                self.resumable = False
                self.out.note(
                    "Warning: this run cannot be resumed, because states that hold extra state of the network other "
                    f"than tensors and plain data cannot be read safely: {refused}."
                )
            case RunResumed(path, epoch, update, torn, held):
                for file in torn:
                    self.out.note(f"Warning: {file} is damaged and was passed over.")
                finished = f"all epochs are done; --epochs {epoch + 1} or more would lengthen the run."
                where = finished if epoch >= self.epochs else f"epoch {epoch + 1}, after {update} of its updates."
                self.out.note(f"Resuming from {path}: {where}")
                if held is not None:
                    self.out.note(f"best.pt holds a later epoch, {held.epoch + 1}, until one is better.")
                self._first_step = update
            case RunStopped(epoch):
                self.out.note(f"Stopped before epoch {epoch + 1}: no better one for as long as --patience allows.")

    def say_what_is_kept(self, flags: str = "", *, onwards: bool = True) -> None:
        """Print which files are kept after an interrupt or an error.

        Args:
            flags: the options that commands on the checkpoint need.
            onwards: also print how to resume.
        """
        if self.started is None:
            return
        folder, state = self.started.folder, self.state if onwards and self.resumable else None
        done = self.rows[-1].epoch + 1 if self.rows else 0
        if self.rows:
            when = f"after epoch {done} of {self.epochs}" if done else "before any training"
            self.out.note(f"Kept: {folder / 'last.pt'}, the state {when}.")
            if not onwards:
                self.out.note(f"What led to it: {folder / 'report.md'}")
        if state is not None and (state.epoch, state.update) > (done, 0):
            updates = counted(state.update, "update")
            self.out.note(f"Kept: {state.path}, the state after {updates} of epoch {state.epoch + 1}.")
        if state is not None:
            where = f"--output {shlex.quote(str(folder.parent))} --name {shlex.quote(folder.name)}"
            self.out.note(f"To go on: sesurgeon finetune --resume {where}{flags}")

    def show(self, what: str, details: str, done: int, total: int) -> None:
        """Update the bar; a new ``what`` restarts it."""
        if what != self._shown:
            self.progress.reset(self._bar, total=total, visible=True)
            self._shown = what
        self.progress.update(self._bar, description=what + details, completed=done)

    def hide(self) -> None:
        """Hide the bar."""
        self.progress.update(self._bar, visible=False)
        self._shown = ""

    def _say_start(self, event: RunStarted) -> None:
        data, task = event.data, event.task
        self._train_images = len(data.split("train"))
        size = "x".join(map(str, task.preprocessing.input_size))
        self.out.note(
            f"{data.name}: {self._train_images:,} training and {len(data.val):,} validation images{held_out(data)}, "
            f"{len(data.classes)} classes, seen as {size}."
        )
        if data.skipped:
            self.out.note(skipped_note(data.skipped))
        for note in task.notes:
            self.out.note(note)
        self.out.note(f"The run is kept in {event.folder}")

    def _score(self, row: EpochRow, width: int = 0) -> str:
        name = usual_score(row) if self.metric == "loss" else self.metric
        return f"{score_label(name)} {score_text(name, row.scores[name]):>{width}}"

    def _images_a_second(self, share: float) -> str:
        images = share * self._train_images
        return f"{images / max(time.perf_counter() - self._epoch_began, 1e-9):,.0f}"

    def _line(self, row: EpochRow, is_best: bool) -> str:
        scores = f"val loss {number(row.eval_loss)}  {self._score(row, 8)}"
        if row.train_loss is None:
            return f"{'before training':<29}{scores}"
        epoch = f"epoch {row.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
        speed = f"  {self._speed} images/s" if self._speed else ""  # empty if a resumed epoch had no steps left
        return f"{epoch:<15}loss {number(row.train_loss)}  {scores}{speed}{'  best' if is_best else ''}"
