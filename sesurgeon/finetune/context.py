"""What every step of a run shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.events import OnProgress
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.training.stopping import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class RunContext:
    """The settings of a run and its surroundings.

    Attributes:
        config: the settings, without open rates.
        accelerator: devices and processes.
        folder: where the run's files go.
        stop: whether the run was asked to stop.
        on_progress: receives the events.
    """

    config: FinetuneConfig
    accelerator: Accelerator
    folder: RunFolder
    stop: StopRequest
    on_progress: OnProgress

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files; only the main process does."""
        return bool(self.accelerator.is_main_process)
