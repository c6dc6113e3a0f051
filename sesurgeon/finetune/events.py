"""The events of a run, for whoever watches it. Nothing in this folder prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # these modules import the events
    from sesurgeon.finetune.data.dataset import Data
    from sesurgeon.finetune.keeping.records import EpochRow
    from sesurgeon.finetune.task import Task
    from sesurgeon.finetune.training.calibration import Calibration
    from sesurgeon.finetune.training.phases import Phase


@dataclass(frozen=True)
class ImagesChecked:
    """``done`` of ``total`` image files were decoded as a check."""

    done: int
    total: int


@dataclass(frozen=True)
class RunStarted:
    """All checks have passed, and the run's folder was made.

    Attributes:
        folder: of the run.
        data: the images, and which files were skipped.
        task: classes, preprocessing, phases, and notes for the user.
    """

    folder: Path
    data: Data
    task: Task


@dataclass(frozen=True)
class BlocksCalibrated:
    """The hidden layers of fresh blocks were scaled to the training images."""

    calibration: Calibration


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins, which trains ``trained`` of the model's ``parameters`` numbers."""

    phase: Phase
    trained: int
    parameters: int


@dataclass(frozen=True)
class TrainStep:
    """``step`` of the ``steps`` of an epoch are done; ``loss`` is the mean so far, ``lr`` the largest learning rate."""

    epoch: int
    step: int
    steps: int
    loss: float
    lr: float


@dataclass(frozen=True)
class EvaluationStep:
    """``step`` of the ``steps`` batches of an evaluation are done."""

    step: int
    steps: int


@dataclass(frozen=True)
class EpochFinished:
    """An epoch (-1: the state before training) was evaluated and its files written.

    Attributes:
        row: what it scored.
        is_best: no epoch before was as good; always False without labels, where no score picks a best epoch.
    """

    row: EpochRow
    is_best: bool


@dataclass(frozen=True)
class StateWritten:
    """A state was written to ``path``, after ``update`` updates of ``epoch``; the run can be resumed from it."""

    path: Path
    epoch: int
    update: int


@dataclass(frozen=True)
class NotResumable:
    """The first state cannot be read back because of what is ``refused`` in it, so the run cannot be resumed."""

    refused: str


@dataclass(frozen=True)
class RunResumed:
    """The run goes on from a state.

    Attributes:
        path: its file.
        epoch, update: where the run stands: after ``update`` updates of ``epoch``.
        torn: newer files that are damaged and were renamed to these.
        held: the epoch in ``best.pt`` where the run had come further than the state, and a later epoch is the best; it
            is only replaced by a better one. Otherwise None.
    """

    path: Path
    epoch: int
    update: int
    torn: tuple[Path, ...]
    held: EpochRow | None = None


@dataclass(frozen=True)
class RunStopped:
    """The run ends before ``epoch``, because ``patience`` epochs went by without a new best."""

    epoch: int


Event: TypeAlias = (
    ImagesChecked
    | RunStarted
    | NotResumable
    | RunResumed
    | BlocksCalibrated
    | PhaseStarted
    | TrainStep
    | EvaluationStep
    | EpochFinished
    | StateWritten
    | RunStopped
)
OnProgress: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The watcher that does nothing."""
