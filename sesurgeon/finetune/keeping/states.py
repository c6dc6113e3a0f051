"""The files from which a run is resumed: each is written whole or not at all, and checked before it is used."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sesurgeon.errors import UnreadableFileError
from sesurgeon.files import atomic_write

STATES = "epoch-*-update-*.pt"  # their names
TORN = ".torn"  # is appended to the names of damaged ones
FORMAT = 1  # to be raised with every change of RunState: a state that lacks a field counts as damaged
_KEPT = 2  # the newest, and one more in case the disk damages it


@dataclass(frozen=True, eq=False)
class RunState:
    """Everything that a resumed run restores, in plain data and tensors.

    Attributes:
        epoch: the epoch that the run is in, from 0.
        update: how many updates of it are done.
        phase: name of the phase whose optimiser this is.
        model: the network's state dict.
        average: that of its moving average; None without one.
        optimizer: the optimiser's state dict.
        scaler: that of the gradient scaler; None without one.
        processes: for each process its random states, its losses of the epoch and, if there are several processes, its
            BatchNorm statistics: see :mod:`sesurgeon.finetune.training.state`.
        new: paths of the modules that were new when the run started.
        new_head: whether the run replaced the head.
        notes: what the user was told about the task.
        trainable: names of the parameters that were not frozen when the run started.
        recorder: see :meth:`sesurgeon.finetune.keeping.recorder.Recorder.state`.
        data: what must be the same about the data when the run is resumed.
    """

    epoch: int
    update: int
    phase: str
    model: Mapping[str, Any]
    average: Mapping[str, Any] | None
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any] | None
    processes: Sequence[Mapping[str, Any]]
    new: Sequence[str]
    new_head: bool
    notes: Sequence[str]
    trainable: Sequence[str]
    recorder: Mapping[str, Any]
    data: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What a file holds."""
        return {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunState:
        """The inverse of :meth:`to_dict`.

        Raises:
            UnreadableFileError: something is missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise UnreadableFileError(f"The state of a run lacks {', '.join(missing)}.")
        return cls(**{name: content[name] for name in names})


@dataclass(frozen=True)
class FoundState:
    """The newest whole state of a run.

    Attributes:
        path: its file.
        state: what the file holds.
        torn: newer files that are damaged and were passed over.
    """

    path: Path
    state: RunState
    torn: tuple[Path, ...]

    def set_torn_aside(self) -> tuple[Path, ...]:
        """Rename the damaged files, so that none counts as one of the newest. Returns their new paths."""
        return tuple(file.rename(file.with_name(file.name + TORN)) for file in self.torn)


def write_state(folder: Path, state: RunState) -> Path:
    """Write ``state`` to a file in ``folder``, and delete all states but the newest two.

    Raises:
        OutputError: it cannot be written; the states before it are still there.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"epoch-{state.epoch:05}-update-{state.update:08}.pt"
    with atomic_write(path) as temporary:
        torch.save(state.to_dict(), temporary)
    for old in states_in(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def newest_state(folder: Path) -> FoundState | None:
    """The newest whole state in ``folder``, or None if there is none. Damaged files are passed over, and kept.

    Raises:
        UnreadableFileError: the state was written by another version of sesurgeon.
    """
    torn: list[Path] = []
    for path in states_in(folder):
        content = _read(path)
        if content is not None and content.get("format") != FORMAT:
            raise UnreadableFileError(
                f"{path} is a state of format {content.get('format')}; this sesurgeon reads format {FORMAT}.",
                hint="Go on with the sesurgeon that started the run.",
            )
        try:
            return FoundState(path, RunState.from_dict(content or {}), tuple(torn))
        except UnreadableFileError:
            torn.append(path)
    return None


def refused_in(path: Path) -> str | None:
    """What torch's safe reader refuses in a state that was just written; None if it reads everything.

    It can only be extra state of the network: the rest is plain data and tensors.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return ", ".join(sorted(named)) or str(error)
    return None


def states_in(folder: Path) -> list[Path]:
    """The files of all states, the newest first."""
    return sorted(folder.glob(STATES), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    """Epoch and update. Names sort otherwise where a number has more digits than it is padded to."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _read(path: Path) -> Mapping[str, Any] | None:
    """What a file holds; None if it is cut short or a bit of it is wrong: torch writes a checksum of each part."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # of any kind: bytes that are no pickle are read as one (torch raises even IndexError)
        return None
    return content if isinstance(content, Mapping) else None
