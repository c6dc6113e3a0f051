"""A run's numbers for experiment trackers such as TensorBoard, through accelerate."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sesurgeon.errors import UsageError
from sesurgeon.finetune.events import EpochFinished, Event, OnProgress, TrainStep
from sesurgeon.finetune.keeping.runfolder import TRACKED

if TYPE_CHECKING:
    from accelerate import Accelerator


def trackers_for(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The trackers that a run logs to: those ``asked`` for, or TensorBoard if it is installed.

    Raises:
        UsageError: one that was asked for is not installed.
    """
    if asked is None:
        return ("tensorboard",) if _is_installed("tensorboard") else ()
    missing = [name for name in asked if not _is_installed(name)]
    if missing:
        raise UsageError(
            f"log_with names what is not installed: {', '.join(missing)}.", hint=f"pip install {' '.join(missing)}"
        )
    return asked


@contextlib.contextmanager
def tracking(
    accelerator: Accelerator, folder: Path, settings: Mapping[str, Any], updates_per_epoch: int, on_progress: OnProgress
) -> Iterator[OnProgress]:
    """Yield a function that calls ``on_progress`` and logs the numbers of its events to ``accelerator``'s trackers.

    The trackers are finished at the end of the block, even after an error or an interrupt: some send their last numbers
    only then.

    Args:
        accelerator: made with or without trackers.
        folder: of the run; trackers that write files do so there.
        settings: logged with the numbers.
        updates_per_epoch: converts epochs to updates: W&B wants one counter for all numbers, which never goes back.
        on_progress: receives every event.
    """
    if not accelerator.log_with:
        yield on_progress
        return
    plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings.items()}
    accelerator.project_configuration.logging_dir = str(folder)
    called = {"wandb": {"name": folder.name}, "trackio": {"name": folder.name}, "mlflow": {"run_name": folder.name}}
    accelerator.init_trackers(TRACKED, config=plain, init_kwargs=called)

    def both(event: Event) -> None:
        on_progress(event)
        match event:
            case TrainStep(epoch, step, _, loss, lr):
                accelerator.log({"train/loss": loss, "train/lr": lr}, step=epoch * updates_per_epoch + step)
            case EpochFinished(row, _):
                numbers = {key: value for key, value in row.to_dict().items() if isinstance(value, float)}
                done = (row.epoch + 1) * updates_per_epoch
                accelerator.log({f"epoch/{key}": value for key, value in numbers.items()}, step=done)

    with contextlib.ExitStack() as at_last:
        for tracker in accelerator.trackers:
            at_last.callback(tracker.finish)
        yield both


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a plain folder of that name, as W&B makes, has no origin
