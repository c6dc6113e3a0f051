"""Fine-tuning, from the first check to the last file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sesurgeon.errors import DivergedError, OutputError, UsageError
from sesurgeon.finetune.assembly import checked_updates, make_trainer, place
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data, check_is_data
from sesurgeon.finetune.data.loader import dead_readers_named, end_readers
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.randomness import reseed, seeded
from sesurgeon.finetune.data.unlabelled import lacks_classes
from sesurgeon.finetune.events import BlocksCalibrated, OnProgress, RunResumed, RunStarted, ignore
from sesurgeon.finetune.keeping.claim import claimed
from sesurgeon.finetune.keeping.curve import draw_curve
from sesurgeon.finetune.keeping.finishing import write_overview
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.keeping.runfolder import RunFolder, make_run_folder
from sesurgeon.finetune.keeping.states import FoundState
from sesurgeon.finetune.keeping.trackers import trackers_for, tracking
from sesurgeon.finetune.resuming import check_data, check_epochs, state_of, task_of
from sesurgeon.finetune.scoring.agreement import labelled_by
from sesurgeon.finetune.scoring.gatewatch import GateMovement
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.task import Task, make_task, prepare_model
from sesurgeon.finetune.trainer import Trainer
from sesurgeon.finetune.training.calibration import calibrate
from sesurgeon.finetune.training.engine import from_main, lost_processes_named, make_accelerator
from sesurgeon.finetune.training.phase_training import check_optimizer
from sesurgeon.finetune.training.signals import StopAskedError, stop_request
from sesurgeon.finetune.training.single_images import check_single_images
from sesurgeon.finetune.training.state import check_processes, put_back_weights
from sesurgeon.models.provenance import attach_provenance, check_is_network, provenance_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """A finished run.

    Attributes:
        folder: the run's folder.
        best: the checkpoint with the best validation score, the state before training included; where the images had no
            labels, and so no score says which is best, that of the last epoch.
        last: the checkpoint of the last epoch.
        rows: one a line of ``summary.csv``; the first is the state before training.
        metric: by which the best epoch was chosen; None where the images had no labels.
        evaluation: what ``best`` scored.
        gates: what the gates of ``best`` did.
        task: classes, preprocessing, phases and notes.
        config: the settings, those that were left open settled.
    """

    folder: Path
    best: Path
    last: Path
    rows: tuple[EpochRow, ...]
    metric: str | None
    evaluation: Measured
    gates: tuple[GateMovement, ...]
    task: Task
    config: FinetuneConfig

    @property
    def best_row(self) -> EpochRow:
        return best_of(self.rows, self.metric)


@lost_processes_named()
def finetune(
    model: nn.Module,
    data: Data | str | os.PathLike[str],
    config: FinetuneConfig | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    on_progress: OnProgress = ignore,
) -> FinetuneResult:
    """Train ``model`` on ``data``: what is new first, with the backbone frozen, then everything.

    The model is trained in place and holds the last epoch's weights at the end; the best ones are in ``best.pt`` (where
    the images have no labels no score says which are best, and these are the last ones, too). Its ``requires_grad`` and
    train and eval flags are put back, parameters that were frozen before stay so (but for what is new), and it is left
    on the device that it was trained on. The random state of the caller is left as it was. The same seed gives the same
    weights, bit for bit, on the CPU.

    SIGINT and SIGTERM let the step end and write a state, from which ``resume`` goes on, bit for bit as if the run
    had not been stopped. So it does when the process was killed, from the state before. Under ``torchrun`` or
    ``accelerate launch`` all processes call this alike; the main one writes.

    Args:
        model: a classifier, as :func:`sesurgeon.load` or :func:`sesurgeon.add_se` give it.
        data: what :func:`open_data` gives, or what it takes (opened by the settings in ``config`` then).
        config: the settings.
        resume: the folder of a run that goes on; ``model`` is its ``last.pt`` then, and ``config`` the one that it was
            started with, but for what :func:`sesurgeon.finetune.resumed_config` lets change.
        settings: more to be kept in ``args.yaml``.
        on_progress: gets the events of :mod:`sesurgeon.finetune.events`, on the main process.

    Raises:
        DataError: bad data, see :func:`open_data`; or images that the model cannot take.
        UsageError: the model is no classifier, has no last layer that could be replaced, or the device or the
            optimiser is not there; images without labels for more than distillation alone; nothing to resume from,
            another number of processes, or fewer epochs than were begun; a run is going on in that folder.
        OutputError: the run folder is there already, or cannot be written.
        DivergedError: the loss is not finite; the report says how far the run came.
        KeyboardInterrupt: the run was asked to stop.
    """
    check_is_network(model)
    check_is_data(data)
    config = FinetuneConfig() if config is None else config
    if not isinstance(config, FinetuneConfig):
        raise UsageError(
            f"config must be a FinetuneConfig, not a {type(config).__name__}.",
            hint="Write sesurgeon.finetune.FinetuneConfig(epochs=3, lr=1e-3).",
        )
    trackers = trackers_for(config.log_with)
    state = None if resume is None else state_of(RunFolder(Path(resume)))
    accelerator = make_accelerator(config, trackers)
    on_progress = on_progress if accelerator.is_main_process else ignore
    spec = data.name if isinstance(data, Data) else os.fspath(data)
    data = _images(model, data, config, accelerator, state, on_progress)
    task, updates_per_epoch = _checked(model, data, config, accelerator, state)
    config = config.settled(new_head=task.new_head)
    folder = _run_folder(resume, config, accelerator)
    held = claimed(folder.path) if accelerator.is_main_process else contextlib.nullcontext()
    tracked = tracking(accelerator, folder.path, config.to_dict(), updates_per_epoch, on_progress)
    with (
        held,
        tracked as on_progress,
        seeded(config.seed, accelerator.device),
        stop_request() as stop,
        _flags_kept(model),
    ):
        if accelerator.is_main_process:
            source = {"model": str(provenance_of(model).source), "data": spec, **(settings or {})}
            folder.write_settings(model, {**source, **config.to_dict()})
        prepare_model(model, task)
        place(model, config, accelerator)
        on_progress(RunStarted(folder.path, data, task))
        trainer = make_trainer(
            model, data, task, config, accelerator, folder,
            trainable=_trainable(model, state), resumes=state is not None, stop=stop, on_progress=on_progress,
        )  # fmt: skip
        reseed(config.seed + accelerator.process_index, accelerator.device)
        _train(trainer, state, folder, data)
        gates: tuple[GateMovement, ...] = ()
        if accelerator.is_main_process:
            gates = write_overview(folder, model, trainer.recorder, data, task, config.batch_size)
    attach_provenance(model, provenance_of(trainer.shown))  # the average has the history
    recorder = trainer.recorder
    assert recorder.best is not None  # the state before training was recorded
    return FinetuneResult(
        folder=folder.path,
        best=folder.best,
        last=folder.last,
        rows=recorder.rows,
        metric=recorder.metric,
        evaluation=recorder.best,
        gates=gates,
        task=task,
        config=config,
    )


def _images(
    model: nn.Module,
    data: Data | str | os.PathLike[str],
    config: FinetuneConfig,
    accelerator: Accelerator,
    state: FoundState | None,
    on_progress: OnProgress,
) -> Data:
    """The images of the run, opened; those without labels with what the network says of them."""
    main = accelerator.is_main_process
    if not isinstance(data, Data):
        spec = os.fspath(data)
        data = from_main(accelerator, _open(spec, model, config, on_progress) if main else None)
    if data.unlabelled:
        placed, kept = place(model, config, accelerator), None if state is None else state.content
        data = from_main(accelerator, labelled_by(placed, data, config, kept) if main else None)
    return data


def _checked(
    model: nn.Module, data: Data, config: FinetuneConfig, accelerator: Accelerator, state: FoundState | None
) -> tuple[Task, int]:
    """What is to be done, and the updates of an epoch; all that can be refused is, before anything is written."""
    task = make_task(model, data, config)
    if state is not None:
        check_processes(state.content, accelerator.num_processes)
        check_epochs(state.content, config)
        check_data(state.content, data)
        task = task_of(state.content, task, config)
    updates = checked_updates(data, config, accelerator)
    check_single_images(model, task, updates, sync_bn=config.sync_bn)
    check_optimizer(config, accelerator.device)
    return task, updates.per_epoch


def _train(trainer: Trainer, state: FoundState | None, folder: RunFolder, data: Data) -> None:
    """Train from the start, with what is measured before it, or from ``state``; readers end however it ends."""
    with contextlib.ExitStack() as at_last:
        at_last.enter_context(dead_readers_named())
        at_last.enter_context(_shown_all_the_same(trainer, folder, data))
        at_last.callback(end_readers, *trainer.readers)
        if state is None:
            _record_the_start(trainer)
            if trainer.config.calibrate:
                _calibrate(trainer)
        else:
            _take_up(trainer, state)
        trainer.train(None if state is None else state.content)


@contextlib.contextmanager
def _shown_all_the_same(trainer: Trainer, folder: RunFolder, data: Data) -> Iterator[None]:
    """Draw the curve of a run that ends before its time; one that diverged will not go on, and gets its report."""
    try:
        yield
    except BaseException as error:
        recorder, writes = trainer.recorder, trainer.write_state is not None
        with contextlib.suppress(OutputError):  # what ended it matters more
            if isinstance(error, DivergedError) and writes and recorder.best is not None:
                why = f"The run ended before its time: {error.message} {error.hint or ''}".strip()
                task = replace(trainer.task, notes=(why, *trainer.task.notes))
                write_overview(folder, trainer.model, recorder, data, task, trainer.config.batch_size)
            elif writes and len(recorder.rows) > 1:
                draw_curve(recorder.rows, trainer.task.phases, folder.curve, recorder.metric)
        raise


def _trainable(model: nn.Module, state: FoundState | None) -> frozenset[str]:
    """The parameters that a run may train: those that were not frozen at its start."""
    if state is not None:
        return frozenset(state.content["trainable"])
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def _record_the_start(trainer: Trainer) -> None:
    """Measure the network without its blocks, where it keeps its head, and as it is."""
    from sesurgeon.surgery import blocks_of, remove_se

    recorder = trainer.recorder
    try:
        if blocks_of(trainer.model) and trainer.task.head is None:
            recorder.milestones["base: without blocks"] = recorder.measure(remove_se(trainer.model))
        recorder.milestones["after surgery"] = recorder.record(trainer.shown, -1)
    except StopAskedError:
        raise KeyboardInterrupt from None


def _calibrate(trainer: Trainer) -> None:
    """Calibrate fresh blocks; the moving average starts where they do."""
    done = calibrate(trainer.model, trainer.batches, trainer.updates, trainer.accelerator)
    if done.blocks or done.left:
        trainer.recorder.notes += (str(done),)
        trainer.on_progress(BlocksCalibrated(done))
    if trainer.average is not None:
        trainer.average.set(trainer.model)


def _take_up(trainer: Trainer, state: FoundState) -> None:
    put_back_weights(state.content, trainer.model, trainer.average)
    trainer.recorder.restore(state.content["recorder"])
    trainer.on_progress(RunResumed(state.path, state.content["epoch"], state.content["update"], state.torn))


def _run_folder(resume: object, config: FinetuneConfig, accelerator: Accelerator) -> RunFolder:
    if resume is not None:
        return RunFolder(Path(str(resume)))
    made = None
    if accelerator.is_main_process:
        made = make_run_folder(Path(config.output), config.name, force=config.force)
    return from_main(accelerator, made)


def _open(spec: str, model: nn.Module, config: FinetuneConfig, on_progress: OnProgress) -> Data:
    return open_data(
        spec,
        multi_label=config.multi_label,
        unlabelled=config.distill == 1 and lacks_classes(spec, provenance_of(model).classes),
        val_split=config.val_split,
        seed=config.seed,
        on_bad_image=config.on_bad_image,
        data_dir=config.data_dir,
        download=config.download,
        workers=config.workers,
        on_progress=on_progress,
    )


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
