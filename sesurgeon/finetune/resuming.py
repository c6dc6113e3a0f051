"""Checks of whether a stopped run can be resumed, and from where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sesurgeon.errors import DataError, UnreadableFileError, UsageError
from sesurgeon.files import remove_drafts
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.heldout import data_identity
from sesurgeon.finetune.keeping.lock import check_unlocked
from sesurgeon.finetune.keeping.runfolder import FILES, RunFolder
from sesurgeon.finetune.keeping.states import STATES, FoundState, RunState, newest_state, states_in
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training.phases import phases_of
from sesurgeon.scalars import is_whole

# These change how a run is computed, not its result; except for epochs and patience, which say when it ends.
CHANGEABLE = frozenset(
    {"epochs", "patience", "checkpoint_every", "workers", "device", "log_with", "data_dir", "download"}
)
_OF_FOLDER = ("output", "name", "force")


def newest_run(output: Path) -> Path:
    """The run in ``output`` with the newest state.

    Raises:
        UsageError: there is none.
    """
    runs = [RunFolder(path) for path in output.glob("*")]
    states = [(_written_at(file), str(run.path)) for run in runs for file in states_in(run.states)]
    if not states:
        raise UsageError(
            f"There is no run in {output} that saved a state.",
            hint="Name the run with --name, the folder of the runs with --output; or start one, without --resume.",
        )
    return Path(max(states)[1])


def _written_at(file: Path) -> int:
    """In nanoseconds; 0 if it is gone by now, because a run deletes its older states."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def resumed_config(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> FinetuneConfig:
    """The settings of a resumed run.

    With more ``epochs`` the run goes on as if it had been started with that many: they lengthen the phase that trains
    everything (or begin it, if ``freeze_epochs`` were all), with the schedule of the longer phase, so the learning rate
    rises again. Fewer epochs end the run earlier, even within the frozen ones, but not before the epoch that it is in.

    Args:
        settings: the run's ``args.yaml``.
        changes: settings to change.

    Raises:
        UsageError: one of the changes would make it another run.
    """
    known = {field.name for field in fields(FinetuneConfig)}
    before = {name: value for name, value in settings.items() if name in known}
    if before.get("log_with") is not None:
        before["log_with"] = tuple(name for name in before["log_with"] if name != "none")
    started = FinetuneConfig(**before)  # with the defaults of settings that it does not have, as of an older version
    epochs = changes.get("epochs", started.epochs)
    as_it_is = {**vars(started), "eval_metric": started.metric if "eval_metric" in changes else None}
    if is_whole(epochs) and changes.get("freeze_epochs") == min(started.freeze_epochs, epochs):
        as_it_is["freeze_epochs"] = changes["freeze_epochs"]  # as it is cut below
    fixed = {name: value for name, value in changes.items() if name not in CHANGEABLE and value != as_it_is[name]}
    if fixed:
        listed = ", ".join(f"{name} (={value!r}, the run has {as_it_is[name]!r})" for name, value in fixed.items())
        raise UsageError(
            f"A resumed run keeps its settings, and these differ: {listed}.",
            hint=f"Leave them out (these may change: {', '.join(sorted(CHANGEABLE))}), "
            "or start a new run from its last.pt.",
        )
    changeable = {name: value for name, value in changes.items() if name in CHANGEABLE}
    changed = replace(started, **{**changeable, "freeze_epochs": 0})
    return replace(changed, freeze_epochs=min(started.freeze_epochs, changed.epochs))


def config_of(settings: Mapping[str, Any], given: FinetuneConfig | None) -> FinetuneConfig:
    """The settings of a resumed run, of which ``given`` may change some; what is None there stays as in the run.

    Args:
        settings: the run's ``args.yaml``.
        given: by the caller.

    Raises:
        UsageError: see :func:`resumed_config`.
    """
    if given is None:
        return resumed_config(settings, {})
    return resumed_config(
        settings, {name: value for name, value in vars(given).items() if value is not None and name not in _OF_FOLDER}
    )


def task_of(state: RunState, task: Task, config: FinetuneConfig) -> Task:
    """``task`` as it was when the run started, where a replaced head was still new, with the notes of that time."""
    return replace(
        task,
        head=None,
        new_head=state.new_head,
        new=frozenset(state.new),
        phases=phases_of(config, anything_new=bool(state.new)),
        notes=tuple(state.notes),
    )


def state_of(folder: RunFolder) -> FoundState:
    """The newest whole state of a run. Temporary files that a killed process left are deleted.

    Raises:
        UsageError: there is none, or the run is going on.
        UnreadableFileError: none can be read, another version of sesurgeon wrote it, or the run's best epoch is gone.
    """
    check_unlocked(folder.path)
    states = states_in(folder.states)
    if not states:
        raise UsageError(
            f"There is no state to resume from in {folder.path}: the run was stopped before its first was written.",
            hint="Start it again.",
        )
    remove_drafts(folder.path, FILES)
    remove_drafts(folder.states, [STATES])
    found = newest_state(folder.states)
    if found is None:
        raise UnreadableFileError(
            f"No state of the run can be read: {', '.join(map(str, reversed(states)))}. They are damaged; or they hold "
            "extra state of the network that cannot be read safely, of which the run warned when it started.",
            hint="Start a new run from its last.pt or best.pt.",
        )
    if folder.read_best_row() is None:  # unless a later epoch were better, the run would fail at its end
        raise UnreadableFileError(
            f"{folder.best} is gone or damaged, or holds no epoch of the run.",
            hint="Put it back, or start a new run from the last.pt beside it.",
        )
    return found


def check_epochs(state: RunState, config: FinetuneConfig) -> None:
    """Refuse to end a run before the epoch that it is in.

    Raises:
        UsageError: more epochs were begun than ``config`` has.
    """
    begun = state.epoch + (state.update > 0)
    if config.epochs < begun:
        raise UsageError(
            f"epochs (={config.epochs}) is less than the {begun} that the run has done or begun.",
            hint="Give more, or take its best.pt or last.pt as it is.",
        )


def check_data(state: RunState, data: Data) -> None:
    """Refuse to resume a run with other images.

    Raises:
        DataError: their number, names or classes differ from those that the run was started with.
    """
    before, now = state.data, data_identity(data)
    changed = [f"{what}: {before[what]} then, {now[what]} now" for what in before if before[what] != now[what]]
    if changed:
        raise DataError(
            f"{data.name} is not what the run was started with ({'; '.join(changed)}).",
            hint="Put the images back, or start a new run from its last.pt.",
        )
