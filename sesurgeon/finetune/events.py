"""What a run tells whoever watches it. Nothing in this folder prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # all of them tell events
    from sesurgeon.finetune.data.dataset import Data
    from sesurgeon.finetune.keeping.records import EpochRow
    from sesurgeon.finetune.task import Task
    from sesurgeon.finetune.training.calibration import Calibration
    from sesurgeon.finetune.training.phases import Phase


@dataclass(frozen=True)
class ImagesChecked:
    """``done`` of ``total`` image files were decoded on trial."""

    done: int
    total: int


@dataclass(frozen=True)
class RunStarted:
    """Everything was checked and the run's folder made.

    Attributes:
        folder: of the run.
        data: the images, with those that were skipped.
        task: classes, preprocessing, phases, and the notes that the user should see.
    """

    folder: Path
    data: Data
    task: Task


@dataclass(frozen=True)
class BlocksCalibrated:
    """The hidden units of fresh blocks were started where they tell images apart."""

    calibration: Calibration


@dataclass(frozen=True)
class PhaseStarted:
    """``trained`` of the model's ``parameters`` numbers change from here on."""

    phase: Phase
    trained: int
    parameters: int


@dataclass(frozen=True)
class TrainStep:
    """``step`` of ``steps`` of an epoch are done; ``loss`` is the mean so far, ``lr`` the largest rate."""

    epoch: int
    step: int
    steps: int
    loss: float
    lr: float


@dataclass(frozen=True)
class EvaluationStep:
    """``step`` of ``steps`` batches of an evaluation are done."""

    step: int
    steps: int


@dataclass(frozen=True)
class EpochFinished:
    """An epoch (-1: the state before training) was evaluated and its files written.

    Attributes:
        row: what it scored.
        is_best: no epoch before it scored as high; never where no score chooses one.
    """

    row: EpochRow
    is_best: bool


@dataclass(frozen=True)
class StateWritten:
    """A resumed run would go on after ``update`` updates of ``epoch``."""

    path: Path
    epoch: int
    update: int


@dataclass(frozen=True)
class RunResumed:
    """The run goes on from ``path``, after ``update`` updates of ``epoch``; ``torn`` files were passed over."""

    path: Path
    epoch: int
    update: int
    torn: tuple[Path, ...]


@dataclass(frozen=True)
class RunStopped:
    """The run ends before ``epoch``: no epoch was the best for as many as ``patience`` says."""

    epoch: int


Event: TypeAlias = (
    ImagesChecked
    | RunStarted
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
    """The watcher that is taken when none is given."""
