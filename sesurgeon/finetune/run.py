"""Fine-tuning, from the first check to the last file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.loader import eval_loader, train_loader
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.devices import find_device
from sesurgeon.finetune.events import OnProgress, PhaseStarted, RunStarted, ignore
from sesurgeon.finetune.keeping.curve import draw_curve
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.keeping.runfolder import RunFolder, make_run_folder
from sesurgeon.finetune.scoring.evaluation import identity_of
from sesurgeon.finetune.scoring.scores import Evaluation
from sesurgeon.finetune.task import Task, make_task, prepare_model
from sesurgeon.finetune.training.loop import start_phase, train_epoch
from sesurgeon.models.provenance import provenance_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """A finished run.

    Attributes:
        folder: the run's folder.
        best: the checkpoint with the highest validation top-1, the state before training included.
        last: the checkpoint of the last epoch.
        rows: one a line of ``summary.csv``; the first is the state before training.
        evaluation: what ``best`` scored.
        task: classes, preprocessing, phases and notes.
    """

    folder: Path
    best: Path
    last: Path
    rows: tuple[EpochRow, ...]
    evaluation: Evaluation
    task: Task

    @property
    def best_row(self) -> EpochRow:
        return best_of(self.rows)


def finetune(
    model: nn.Module,
    data: Data | str | os.PathLike[str],
    config: FinetuneConfig | None = None,
    *,
    on_progress: OnProgress = ignore,
) -> FinetuneResult:
    """Train ``model`` on ``data``: what is new first, with the backbone frozen, then everything.

    The model is trained in place and holds the last epoch's weights at the end; the best ones are in
    ``best.pt``. Its ``requires_grad`` and train and eval flags are put back, parameters that were frozen
    before stay so (but for what is new), and it is left on the device that it was trained on. The random
    state of the caller is left as it was. The same seed gives the same weights, bit for bit, on the CPU.

    An interrupt passes through: ``last.pt`` is then the state after the last whole epoch.

    Args:
        model: a classifier, as :func:`sesurgeon.load` or :func:`sesurgeon.add_se` give it.
        data: what :func:`open_data` gives, or what it takes (opened by the settings in ``config`` then).
        config: the settings.
        on_progress: gets the events of :mod:`sesurgeon.finetune.events`.

    Raises:
        DataError: bad data, see :func:`open_data`; or images that the model cannot take.
        UsageError: the model is no classifier, has no last layer that could be replaced, or the device is not
            there.
        OutputError: the run folder is there already, or cannot be written.
        SesurgeonError: the loss is not finite.
    """
    config = config or FinetuneConfig()
    spec = data.name if isinstance(data, Data) else os.fspath(data)
    data = data if isinstance(data, Data) else _open(spec, config, on_progress)
    task = make_task(model, data, config)
    accelerator = _accelerator(config.device)
    folder = make_run_folder(Path(config.output), config.name, force=config.force)
    settings = {**config.to_dict(), "name": folder.path.name}
    folder.write_settings(model, {"model": str(provenance_of(model).source), "data": spec, **settings})
    with _random_state(config.seed, accelerator.device):
        prepare_model(model, task)
        model.to(accelerator.device)
        recorder = _recorder(model, data, task, folder, config, on_progress)
        on_progress(RunStarted(folder.path, data, task))
        try:
            with _flags_kept(model):
                _train(model, data, task, config, accelerator, recorder, on_progress)
        finally:
            if len(recorder.rows) > 1:
                draw_curve(recorder.rows, task.phases, folder.curve)
    assert recorder.best is not None  # the state before training was recorded
    return FinetuneResult(folder.path, folder.best, folder.last, recorder.rows, recorder.best, task)


def _train(
    model: nn.Module,
    data: Data,
    task: Task,
    config: FinetuneConfig,
    accelerator: Accelerator,
    recorder: Recorder,
    on_progress: OnProgress,
) -> None:
    recorder.record(-1)
    loader = accelerator.prepare_data_loader(
        train_loader(
            data.split("train"),
            task.preprocessing,
            task.labels,
            batch_size=config.batch_size,
            workers=config.workers,
            seed=config.seed,
            hflip=config.hflip,
        )
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=config.smoothing)
    trainable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    for phase in task.phases:
        state = start_phase(model, phase, task.new, trainable, config, len(loader), accelerator)
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        trained = sum(size for size, trains in sizes if trains)
        on_progress(PhaseStarted(phase, trained, sum(size for size, _ in sizes)))
        for epoch in range(phase.first_epoch, phase.first_epoch + phase.epochs):
            loader.set_epoch(epoch)
            train_loss, lr = train_epoch(state, loader, criterion, accelerator, epoch, on_progress)
            recorder.record(epoch, phase.name, train_loss, lr)


def _open(spec: str, config: FinetuneConfig, on_progress: OnProgress) -> Data:
    return open_data(
        spec,
        val_split=config.val_split,
        seed=config.seed,
        on_bad_image=config.on_bad_image,
        data_dir=config.data_dir,
        download=config.download,
        workers=config.workers,
        on_progress=on_progress,
    )


def _recorder(
    model: nn.Module,
    data: Data,
    task: Task,
    folder: RunFolder,
    config: FinetuneConfig,
    on_progress: OnProgress,
) -> Recorder:
    batches = eval_loader(
        data.val, task.preprocessing, task.labels, batch_size=config.batch_size, workers=config.workers
    )
    names = dict(zip(task.labels, data.classes, strict=True))
    settings = {"data": identity_of(data.name), "val_split": data.val_split, "seed": data.seed}
    return Recorder(model, batches, names, folder, settings, on_progress)


def _accelerator(device: str) -> Accelerator:
    from accelerate import Accelerator

    return Accelerator(cpu=find_device(device).type == "cpu")


@contextlib.contextmanager
def _random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed everything random; the caller's own state comes back at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _flags_kept(model: nn.Module) -> Iterator[None]:
    """Put train and eval flags and ``requires_grad`` back at the end."""
    training = {module: module.training for module in model.modules()}
    requires_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in requires_grad.items():
            parameter.requires_grad_(flag)
