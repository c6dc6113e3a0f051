"""Fine-tuning, from the first check to the last file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sesurgeon.errors import DivergedError, SesurgeonError, UsageError
from sesurgeon.files import StrPath
from sesurgeon.finetune.assembly import checked_updates, make_trainer, place
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.context import RunContext
from sesurgeon.finetune.data.dataset import Data, check_is_data
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.readers import end_readers, explain_dead_workers
from sesurgeon.finetune.data.sampler import UpdateSampler
from sesurgeon.finetune.data.unlabelled import lacks_classes
from sesurgeon.finetune.events import BlocksCalibrated, OnProgress, RunResumed, RunStarted, ignore
from sesurgeon.finetune.keeping.curve import draw_curve
from sesurgeon.finetune.keeping.lock import locked
from sesurgeon.finetune.keeping.overview import write_overview
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.keeping.runfolder import RunFolder, check_settings, make_run_folder
from sesurgeon.finetune.keeping.states import FoundState
from sesurgeon.finetune.keeping.trackers import trackers_for, tracking
from sesurgeon.finetune.pseudo_labels import labelled_by
from sesurgeon.finetune.resuming import check_data, check_epochs, config_of, state_of, task_of
from sesurgeon.finetune.scoring.forward import modes_kept
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.task import Task, make_task, prepare_model
from sesurgeon.finetune.trainer import Trainer
from sesurgeon.finetune.training.calibration import calibrate
from sesurgeon.finetune.training.objective import check_mixing
from sesurgeon.finetune.training.phase_training import check_optimizer
from sesurgeon.finetune.training.processes import explain_lost_processes, make_accelerator, on_main
from sesurgeon.finetune.training.single_images import check_single_images
from sesurgeon.finetune.training.state import check_processes, restore_weights
from sesurgeon.finetune.training.stopping import stop_request
from sesurgeon.finetune.training.teacher import OtherTeacher, check_savable, check_teacher, other_teacher
from sesurgeon.models.provenance import attach_provenance, check_is_network, provenance_of
from sesurgeon.randomness import reseed, seeded

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """A finished run.

    Attributes:
        folder: the run's folder.
        best: the checkpoint with the best validation score, which may be the state before training; that of the last
            epoch if the images have no labels, because no score tells which one is best then.
        last: the checkpoint of the last epoch.
        rows: the lines of ``summary.csv``; the first is the state before training.
        metric: the score that chose the best epoch; None if the images have no labels.
        evaluation: what ``best`` scored.
        gates: what the gates of ``best`` did.
        task: classes, preprocessing, phases and notes.
        config: the settings, with open rates filled in.
        data: the images.
    """

    folder: Path
    best: Path
    last: Path
    rows: tuple[EpochRow, ...]
    metric: str | None
    evaluation: Measured
    gates: tuple[GateStatistics, ...]
    task: Task
    config: FinetuneConfig
    data: Data

    @property
    def best_row(self) -> EpochRow:
        return best_of(self.rows, self.metric)


@explain_lost_processes()
def finetune(
    model: nn.Module,
    data: Data | StrPath,
    config: FinetuneConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    resume: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    on_progress: OnProgress = ignore,
) -> FinetuneResult:
    """Train ``model`` on ``data``: first what is new, with the backbone frozen, then everything.

    The model is trained in place and holds the weights of the last epoch at the end; the best ones are in ``best.pt``
    (the last ones, too, if the images have no labels, because no score tells which are best then). Its
    ``requires_grad`` and its train and eval modes are restored, parameters that were frozen stay so (except in what is
    new), and it is left on the device that it was trained on. The caller's random state is left as it was. The same
    seed gives the same weights, bit for bit, on the CPU.

    At SIGINT, SIGTERM or SIGHUP the run finishes its step and writes a state, from which ``resume`` goes on bit for bit
    as if the run had not been stopped. If the process was killed, it does so from the last state that was written.
    Under ``torchrun`` or ``accelerate launch`` all processes call this in the same way; the main one writes the files.

    Args:
        model: a classifier, as :func:`sesurgeon.load` or :func:`sesurgeon.add_se` give it.
        data: what :func:`open_data` gives; or what it takes, to be opened with the settings in ``config``.
        config: the settings; None: the defaults, or those of the run that is resumed.
        teacher: another network to distil from, with weight ``config.distill``; it stays as it is. It knows the classes
            of the data, perhaps among others. None: the network as it was before training teaches. A run that had one
            gets the same again when it is resumed: ``load(folder / "teacher.pt")``.
        resume: the folder of a run to resume. ``model`` is its ``last.pt`` then, and ``config`` the one that it was
            started with, except for what :func:`sesurgeon.finetune.resumed_config` allows to change.
        settings: more entries for ``args.yaml``.
        on_progress: receives the events of :mod:`sesurgeon.finetune.events`, on the main process.

    Raises:
        DataError: bad data, see :func:`open_data`; or images that the model cannot take.
        UsageError: ``settings`` are no plain data; the model is no classifier, has no last layer that could be
            replaced, or the device or the optimiser is not there; images without labels for more than distillation
            alone; nothing to resume from, other settings than those of the run that is resumed, another number of
            processes, or fewer epochs than were begun; a run is going on in that folder; or the teacher cannot teach
            it, cannot be kept, or is missing on resuming.
        UnreadableFileError: what is resumed is no run, or its settings, states or best epoch are damaged or gone.
        OutputError: the run folder is there already, or cannot be written.
        DivergedError: the loss is not finite; the report says how far the run came.
        KeyboardInterrupt: the run was asked to stop.
    """
    check_is_network(model)
    if teacher is not None:
        check_is_network(teacher)
    check_is_data(data)
    resumed = None if resume is None else RunFolder(Path(resume))
    own = None if resumed is None else resumed.read_settings()
    config = _config_of(config, own)
    check_teacher(teacher, config, own)
    trackers = trackers_for(config.log_with)
    found = None if resumed is None else state_of(resumed)
    accelerator = make_accelerator(config, trackers)
    on_progress = on_progress if accelerator.is_main_process else ignore
    images = _images(model, data, config, accelerator, found, on_progress, taught=teacher is not None)
    task, updates = _checked(model, images, config, accelerator, found, taught=teacher is not None)
    other = None if teacher is None else other_teacher(teacher, task, config)
    if teacher is not None and found is None:  # the notes of a resumed run have it
        on_main(accelerator, lambda: check_savable(teacher))
        said = f"{config.distill:g} of the loss is the distance from the outputs of another network, a "
        task = replace(task, notes=(*task.notes, f"{said}{type(teacher).__name__}."))
    config = config.with_rates(new_head=task.new_head)
    spec = images.name if isinstance(data, Data) else os.fspath(data)
    kept = {**_sources(model, spec, teacher), **(own or {}), "data": spec, **(settings or {}), **config.to_dict()}
    check_settings(kept)  # before a folder is made, or another one replaced
    folder = resumed or on_main(
        accelerator, lambda: make_run_folder(Path(config.output), config.name, force=config.force)
    )
    held = locked(folder.path) if accelerator.is_main_process else contextlib.nullcontext()
    tracked = tracking(accelerator, folder.path, config.to_dict(), updates.per_epoch, on_progress)
    with held, tracked as watching, seeded(config.seed, accelerator.device), stop_request() as stop:
        run = RunContext(config, accelerator, folder, stop, watching)
        if run.writes:
            folder.write_settings(model, kept)
        return _perform(model, images, task, run, found, other)


def _config_of(given: FinetuneConfig | None, own: Mapping[str, Any] | None) -> FinetuneConfig:
    """The settings of a new run, or of the one whose ``own`` are given."""
    if given is not None and not isinstance(given, FinetuneConfig):
        raise UsageError(
            f"config must be a FinetuneConfig, not a {type(given).__name__}.",
            hint="from sesurgeon.finetune import FinetuneConfig; config = FinetuneConfig(epochs=3, lr=1e-3)",
        )
    return (given or FinetuneConfig()) if own is None else config_of(own, given)


def _perform(
    model: nn.Module, images: Data, task: Task, run: RunContext, found: FoundState | None, teacher: OtherTeacher | None
) -> FinetuneResult:
    """Train ``model``, and write what is known of it in the end."""
    config, accelerator, folder = run.config, run.accelerator, run.folder
    gates: tuple[GateStatistics, ...] = ()
    prepare_model(model, task)
    with _flags_kept(model):  # those of a new head, too
        place(model, config, accelerator)
        run.on_progress(RunStarted(folder.path, images, task))
        trainer = make_trainer(model, images, task, run, None if found is None else found.state, teacher)
        reseed(config.seed + accelerator.process_index, accelerator.device)
        _train(trainer, found, images)
        if run.writes:
            gates = write_overview(folder, model, trainer.recorder, images, task, config.batch_size)
    attach_provenance(model, provenance_of(trainer.shown))  # the average has the history
    recorder = trainer.recorder
    return FinetuneResult(
        folder=folder.path,
        best=folder.best,
        last=folder.last,
        rows=recorder.rows,
        metric=recorder.metric,
        evaluation=replace(recorder.best, input_size=task.preprocessing.input_size),
        gates=gates,
        task=task,
        config=config,
        data=images,
    )


def _sources(model: nn.Module, data: str, teacher: nn.Module | None) -> dict[str, str]:
    """What a new run was started with."""
    named = {"model": str(provenance_of(model).source), "data": data}
    return named if teacher is None else {**named, "teacher": str(provenance_of(teacher).source)}


def _images(
    model: nn.Module,
    data: Data | StrPath,
    config: FinetuneConfig,
    accelerator: Accelerator,
    found: FoundState | None,
    on_progress: OnProgress,
    *,
    taught: bool,
) -> Data:
    """The images of the run; if they have no labels, with what the network says of them."""
    opened = (
        data
        if isinstance(data, Data)
        else on_main(accelerator, lambda: _open(data, model, config, on_progress, taught=taught))
    )
    if not opened.unlabelled:
        return opened
    placed = place(model, config, accelerator)
    said = None if found is None else found.state.recorder["best"]["labels"]  # at its start
    return on_main(accelerator, lambda: labelled_by(placed, opened, config, said))


def _checked(
    model: nn.Module,
    data: Data,
    config: FinetuneConfig,
    accelerator: Accelerator,
    found: FoundState | None,
    *,
    taught: bool,
) -> tuple[Task, UpdateSampler]:
    """The task, and the updates of an epoch. Checks whatever can be checked before anything is written."""
    task = make_task(model, data, config, taught=taught)
    if found is not None:
        check_processes(found.state, accelerator.num_processes)
        check_epochs(found.state, config)
        check_data(found.state, data)
        task = task_of(found.state, task, config)
    updates = checked_updates(data, config, accelerator)
    check_single_images(model, task, updates, sync_bn=config.sync_bn)
    check_optimizer(config, accelerator.device)
    check_mixing(config)
    return task, updates


def _train(trainer: Trainer, found: FoundState | None, data: Data) -> None:
    """Measure the network and train it, or train on from the state that was found. Ends the loaders' processes."""
    with contextlib.ExitStack() as at_last:
        at_last.enter_context(explain_dead_workers())
        at_last.enter_context(_report_on_failure(trainer, data))
        at_last.callback(end_readers, *trainer.readers)
        if found is None:
            _record_the_start(trainer)
            if trainer.run.config.calibrate:
                _calibrate(trainer)
        else:
            _restore(trainer, found)
        trainer.train(None if found is None else found.state)


@contextlib.contextmanager
def _report_on_failure(trainer: Trainer, data: Data) -> Iterator[None]:
    """Draw the curve of a run that ends early; write the report of one that diverged, because it cannot be resumed."""
    try:
        yield
    except BaseException as error:
        run, recorder = trainer.run, trainer.recorder
        with contextlib.suppress(SesurgeonError):  # what ended the run matters more
            if isinstance(error, DivergedError) and run.writes and recorder.rows:
                why = f"The run ended before its time: {error.message} {error.hint or ''}".strip()
                task = replace(trainer.task, notes=(why, *trainer.task.notes))
                write_overview(run.folder, trainer.model, recorder, data, task, run.config.batch_size)
            elif run.writes and len(recorder.rows) > 1:
                draw_curve(recorder.rows, trainer.task.phases, run.folder.curve, recorder.metric)
        raise


def _record_the_start(trainer: Trainer) -> None:
    """Measure the network as it is, and without its blocks if it keeps its head."""
    from sesurgeon.surgery import blocks_of, remove_se

    recorder = trainer.recorder
    if blocks_of(trainer.model) and trainer.task.head is None:
        recorder.milestones["base: without blocks"] = recorder.measure(remove_se(trainer.model))
    recorder.milestones["after surgery"] = recorder.record(trainer.shown, -1)


def _calibrate(trainer: Trainer) -> None:
    """Calibrate fresh blocks, in the moving average, too."""
    done = calibrate(trainer.model, trainer.loop.batches, trainer.loop.updates)
    if done.blocks or done.left:
        trainer.recorder.notes += (str(done),)
        trainer.run.on_progress(BlocksCalibrated(done))
    if trainer.average is not None:
        trainer.average.set(trainer.model)


def _restore(trainer: Trainer, found: FoundState) -> None:
    restore_weights(found.state, trainer.model, trainer.average)
    trainer.recorder.restore(found.state.recorder)
    torn = found.set_torn_aside() if trainer.run.writes else ()
    held = trainer.recorder.held
    trainer.run.on_progress(RunResumed(found.path, found.state.epoch, found.state.update, torn, held))


def _open(data: StrPath, model: nn.Module, config: FinetuneConfig, on_progress: OnProgress, *, taught: bool) -> Data:
    spec = os.fspath(data)
    from_itself = config.distill == 1 and not taught  # which needs no labels
    return open_data(
        spec,
        multi_label=config.multi_label,
        unlabelled=from_itself and lacks_classes(spec, provenance_of(model).classes),
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
    """Restore train and eval modes and ``requires_grad`` at the end."""
    requires_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with modes_kept(model):
        try:
            yield
        finally:
            for parameter, flag in requires_grad.items():
                parameter.requires_grad_(flag)
