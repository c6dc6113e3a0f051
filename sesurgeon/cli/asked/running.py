"""The run that ``finetune`` starts, or resumes with its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sesurgeon.cli.asked.configuring import check_typed, is_typed
from sesurgeon.cli.asked.finding import given_or_latest, latest_augmented
from sesurgeon.cli.asked.options import Reading
from sesurgeon.cli.asked.teaching import Teaching
from sesurgeon.cli.asked.training import Training
from sesurgeon.cli.launching import all_processes
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from sesurgeon.finetune import FinetuneConfig

# in args.yaml; --trust-pickle must be typed each time
_KEPT = ("arch", "model_kwargs", "num_classes", "pretrained", "preprocessing")


@dataclass(frozen=True)
class Run:
    """A run to start or to resume.

    Attributes:
        model, data: MODEL and DATA.
        reading: how the model is read.
        config: how it is trained.
        processes: on this machine.
        settings: entries of ``args.yaml``: of a new run those beside the configuration, of a resumed one all.
        notes: messages to print before it starts.
        folder: of the run that is resumed; None for a new one.
        teacher: another network to distil from, and how it is read.
    """

    model: str
    data: str
    reading: Reading
    config: FinetuneConfig
    processes: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    teacher: tuple[str, Reading] | None = None


@dataclass(frozen=True)
class Asked:
    """What was asked for, in whole or in part.

    Attributes:
        context: knows which options were typed.
        data: the images.
        processes: how many, on this machine.
        training: how the network is trained.
        teaching: by which other network.
        reading: how it is read.
    """

    context: typer.Context
    data: str | None
    processes: int
    training: Training
    teaching: Teaching
    reading: Reading


def new_run(model: str | None, asked: Asked) -> Run:
    """A new run of MODEL, with the settings that were typed.

    Raises:
        UsageError: there is no DATA, a setting is invalid, a configuration names a factory that was not typed, or the
            run would replace its own MODEL.
    """
    from sesurgeon.finetune import FinetuneConfig

    context, training, teaching, reading = asked.context, asked.training, asked.teaching, asked.reading
    if is_typed(context, "teacher"):  # how another was read, a configuration may say
        typed = {name: value for name, value in vars(teaching).items() if is_typed(context, name)}
        teaching = Teaching(**typed)
    if teaching.teacher is None and (teaching.teacher_arch or teaching.teacher_model_kwargs):
        raise UsageError("--teacher-arch and --teacher-model-kwargs are of --teacher.", hint="Give --teacher too.")
    by_teacher = teaching.reading(reading)
    check_typed(context, model, reading)
    check_typed(context, teaching.teacher, by_teacher, of="teacher")
    if asked.data is None:
        raise UsageError("Missing option '--data'.", hint="Name the images: --data FOLDER, or as --help says.")
    notes: list[str] = []
    name = given_or_latest(model, latest_augmented, notes.append)
    if training.name is not None:
        for needed in (name, teaching.teacher):
            _check_outlives(needed, Path(training.output) / training.name)
    processes = max(asked.processes, all_processes())  # that is what a resumed run must have, too
    settings = {"model": name, **{key: getattr(reading, key) for key in _KEPT}, "num_processes": processes}
    config = FinetuneConfig(**training.settings())
    taught = teaching.teacher is not None
    return Run(
        name, asked.data, reading, config, asked.processes, settings | (vars(teaching) if taught else {}), tuple(notes),
        teacher=(teaching.teacher, by_teacher) if teaching.teacher is not None else None,
    )  # fmt: skip


def resumed_run(own: Mapping[str, object], asked: Asked) -> Run:
    """The run named by ``--name``, or the newest, with its own settings; if it wrote no state, it starts again.

    Args:
        own: options that the run itself determines, by name: none of them may be given.
        asked: what was not typed is taken from the run; its data are where the images are now, if they were moved.

    Raises:
        UsageError: MODEL or a configuration is given, or a setting that would make it another run; or the run has
            trained, and its states are gone.
        UnreadableFileError: the folder does not belong to a run.
    """
    from sesurgeon.finetune import newest_run, resumed_config
    from sesurgeon.finetune.keeping.runfolder import RunFolder
    from sesurgeon.finetune.keeping.states import states_in

    context, training, reading = asked.context, asked.training, asked.reading
    given = [name for name, value in own.items() if value is not None]
    if given:
        raise UsageError(
            f"--resume continues a run with its own {' and '.join(given)}.", hint=f"Leave {' and '.join(given)} out."
        )
    output = Path(training.output)
    folder = newest_run(output) if training.name is None else output / training.name
    settings = RunFolder(folder).read_settings()
    data = str(settings["data"]) if asked.data is None else asked.data
    settings = {**settings, "data": data}
    config = resumed_config(settings, _typed(context, training))
    typed = is_typed(context, "num_processes")
    processes = asked.processes if typed else int(settings.get("num_processes", 1))
    if states_in(RunFolder(folder).states):
        notes = (f"Resuming {folder}, the newest run there.",) if training.name is None else ()
        of_last = replace(reading, num_classes=None, pretrained=False)
        taught = settings.get("teacher") is not None
        teacher = (str(RunFolder(folder).teacher), asked.teaching.reading(reading)) if taught else None
        return Run(str(folder / "last.pt"), data, of_last, config, processes, settings, notes, folder, teacher)
    if RunFolder(folder).has_trained():
        raise UsageError(
            f"{folder} has trained epochs but no state to go on from.",
            hint="Start a new run from its last.pt, under another --name.",
        )
    kept: dict[str, Any] = {name: settings.get(name) for name in _KEPT}
    model, teaching = str(settings["model"]), Teaching(**{name: settings.get(name) for name in vars(asked.teaching)})
    for source in (model, str(kept["arch"]), str(teaching.teacher), str(teaching.teacher_arch)):
        if source.startswith("factory:") and not reading.trust_pickle:
            raise UsageError(
                f"{folder} wrote no state, and starting it again would import and run {source}, as args.yaml says.",
                hint="Give --trust-pickle, if you want that.",
            )
    for needed in (model, teaching.teacher):
        _check_outlives(needed, folder)
    again = f"{folder} was stopped before its first state was written: it starts again, with its settings."
    config = replace(config, output=str(output), name=folder.name, force=True)
    teacher = None if teaching.teacher is None else (teaching.teacher, teaching.reading(reading))
    return Run(model, data, replace(reading, **kept), config, processes, settings, (again,), teacher=teacher)


def _check_outlives(model: str | None, folder: Path) -> None:
    """Refuse a model or teacher that ``--force`` would delete."""
    if model is not None and Path(model).exists() and Path(model).resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{model} lies in {folder}, where the new run would take its place.", hint="Give another --name."
        )


def _typed(context: typer.Context, training: Training) -> dict[str, Any]:
    """The settings that were typed, except those that select the run."""
    typed = {name for name in training.settings() if is_typed(context, name) and name not in ("output", "name")}
    return {name: value for name, value in training.settings().items() if name in typed}
