"""The files from which a run goes on: each whole or not at all, and checked before it is believed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sesurgeon.errors import UnreadableFileError
from sesurgeon.files import atomic_write

FORMAT = 1
_KEPT = 2  # the newest, and one more should the disk tear it


@dataclass(frozen=True)
class FoundState:
    """The newest whole state of a run.

    Attributes:
        path: its file.
        content: what :func:`write_state` was given.
        torn: newer files that are damaged and were passed over.
    """

    path: Path
    content: Mapping[str, Any]
    torn: tuple[Path, ...]


def write_state(folder: Path, epoch: int, update: int, content: Mapping[str, Any]) -> Path:
    """Keep ``content`` (plain data and tensors) as the state after ``update`` updates of ``epoch``.

    The newest two are kept.

    Raises:
        OutputError: it cannot be written; those before it are still there.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"epoch-{epoch:05}-update-{update:08}.pt"
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)
    for old in states_in(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def newest_state(folder: Path) -> FoundState | None:
    """The newest whole state in ``folder``, or None where there is none. Damaged ones are passed over, and stay.

    Raises:
        UnreadableFileError: it was written by another sesurgeon.
    """
    torn: list[Path] = []
    for path in states_in(folder):
        content = _read(path)
        if content is None:
            torn.append(path)
            continue
        if content.get("format") != FORMAT:
            raise UnreadableFileError(
                f"{path} is a state of format {content.get('format')}; this sesurgeon reads format {FORMAT}.",
                hint="Go on with the sesurgeon that started the run.",
            )
        return FoundState(path, content, tuple(torn))
    return None


def clear_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed process was writing in ``folder``: files that never got one of these ``names``.

    See :func:`sesurgeon.files.atomic_write` for what they are called until then.
    """
    for name in map(Path, names):
        for path in folder.glob(f".{name.stem}-*{name.suffix}"):
            path.unlink(missing_ok=True)


def clear_unfinished_states(folder: Path) -> None:
    """Likewise of states, of whatever epoch."""
    clear_unfinished(folder, ["epoch.pt"])


def states_in(folder: Path) -> list[Path]:
    """The files of all states, the newest first."""
    return sorted(folder.glob("epoch-*-update-*.pt"), reverse=True)


def _read(path: Path) -> Mapping[str, Any] | None:
    """None for a file that is cut short or in which a bit fell over: torch writes a checksum of each part."""
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
