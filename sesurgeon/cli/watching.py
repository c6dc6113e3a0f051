"""The events of a run as bars and lines. It imports what it shows, so commands import it when they run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from rich.progress import Progress

from sesurgeon.cli.console import Output
from sesurgeon.cli.images import skipped_note
from sesurgeon.cli.scoring import number, per_cent
from sesurgeon.finetune import (
    Data,
    EpochFinished,
    EpochRow,
    EvaluationStep,
    Event,
    ImagesChecked,
    PhaseStarted,
    RunStarted,
    TrainStep,
)

PHASES: Mapping[str, str] = MappingProxyType({"blocks": "new parts", "all": "everything"})


class Watcher:
    """Shows events: bars on a terminal, and lines that stay, one an epoch, unless ``out`` is quiet.

    Args:
        out: where the lines go.
        progress: where the bars go.
        epochs: of the whole run; 0 where nothing is trained.

    Attributes:
        started: the run, once its folder is there.
        rows: the epochs that were finished.
    """

    def __init__(self, out: Output, progress: Progress, *, epochs: int = 0) -> None:
        self.out = out
        self.progress = progress
        self.epochs = epochs
        self.started: RunStarted | None = None
        self.rows: list[EpochRow] = []
        self._bar = progress.add_task("", total=None, visible=False)
        self._shown = ""
        self._phase = ""
        self._epoch_began = time.perf_counter()
        self._speed = ""

    @property
    def data(self) -> Data:
        """The images of the run that was started."""
        if self.started is None:
            raise RuntimeError("No run was started.")
        return self.started.data

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case ImagesChecked(done, total):
                self.show("Checking images", "", done, total)
            case RunStarted():
                self.started = event
                self._say_start(event)
            case PhaseStarted(phase, trained, parameters):
                self._phase = phase.name
                epochs = "1 epoch" if phase.epochs == 1 else f"{phase.epochs} epochs"
                self.out.note(f"{epochs}, {PHASES[phase.name]}: {trained:,} of {parameters:,} parameters are trained.")
                self._epoch_began = time.perf_counter()
            case TrainStep(epoch, step, steps, loss):
                self._speed = self._images_a_second(step / steps)
                what = f"epoch {epoch + 1}/{self.epochs} {self._phase}"
                top1 = f" top-1 {per_cent(self.rows[-1].eval_top1)}" if self.rows else ""
                self.show(what, f" loss {number(loss)}{top1} {self._speed} img/s", step, steps)
            case EvaluationStep(step, steps):
                self.show("Evaluating", "", step, steps)
            case EpochFinished(row, is_best):
                self.rows.append(row)
                self.out.note(self._line(row, is_best))
                self._epoch_began = time.perf_counter()

    def say_what_is_kept(self) -> None:
        """After an interrupt."""
        if self.started is not None and self.rows:
            done = self.rows[-1].epoch + 1
            when = f"epoch {done} of {self.epochs}" if done else "its start, before any training"
            self.out.note(f"Kept: {self.started.folder / 'last.pt'}, the state after {when}.")

    def show(self, what: str, details: str, done: int, total: int) -> None:
        """Let the bar say what goes on; another ``what`` starts it anew."""
        if what != self._shown:
            self.progress.reset(self._bar, total=total, visible=True)
            self._shown = what
        self.progress.update(self._bar, description=what + details, completed=done)

    def hide(self) -> None:
        """Take the bar away."""
        self.progress.update(self._bar, visible=False)
        self._shown = ""

    def _say_start(self, event: RunStarted) -> None:
        data, task = event.data, event.task
        train = 0 if data.train is None else len(data.train)
        split = "" if data.val_split is None else f" ({data.val_split:.0%} held out, seed {data.seed})"
        size = "x".join(map(str, task.preprocessing.input_size))
        self.out.note(
            f"{data.name}: {train:,} training and {len(data.val):,} validation images{split}, "
            f"{len(data.classes)} classes, seen as {size}."
        )
        if data.skipped:
            self.out.note(skipped_note(data.skipped))
        for note in task.notes:
            self.out.note(note)
        self.out.note(f"The run is kept in {event.folder}")

    def _images_a_second(self, share: float) -> str:
        images = share * len(self.data.train or ())
        return f"{images / max(time.perf_counter() - self._epoch_began, 1e-9):,.0f}"

    def _line(self, row: EpochRow, is_best: bool) -> str:
        scores = f"val loss {number(row.eval_loss)}  top-1 {per_cent(row.eval_top1):>8}"
        if row.train_loss is None:
            return f"{'before training':<29}{scores}"
        epoch = f"epoch {row.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
        return (
            f"{epoch:<15}loss {number(row.train_loss)}  {scores}  {self._speed} images/s{'  best' if is_best else ''}"
        )
