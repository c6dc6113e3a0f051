"""A run's folder belongs to one run at a time: a second one would delete what the first is writing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sesurgeon.errors import OutputError, UsageError

if sys.platform != "win32":
    import fcntl


_FILE = ".lock"


def check_unlocked(folder: Path) -> None:
    """Refuse a folder in which a run of another process is going on.

    Raises:
        UsageError: there is one.
    """
    with contextlib.suppress(FileNotFoundError), (folder / _FILE).open("rb") as file:
        if not _lock(file, exclusively=False):
            raise _going_on(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes' runs out of ``folder`` while the block runs, or until this process is killed.

    The empty lock file stays in the folder. If it were removed, a process that had opened it before could lock it while
    the next one locks a new file of that name.

    Raises:
        UsageError: another process locked the folder since it was checked.
        OutputError: the folder cannot be written.
    """
    try:
        file = (folder / _FILE).open("wb")
    except OSError as error:
        raise OutputError(
            f"The run folder {folder} cannot be written: {error.strerror or error}.",
            hint="Make it writable, or give another place with --output.",
        ) from error
    with file:
        if not _lock(file, exclusively=True):
            raise _going_on(folder)
        yield


def _going_on(folder: Path) -> UsageError:
    return UsageError(
        f"Another run is in progress in {folder}.",
        hint="Wait for it, or stop its processes (SIGTERM lets them write a state); or give another --name.",
    )


def _lock(file: BinaryIO, *, exclusively: bool) -> bool:
    """Lock ``file`` for this process alone (its children do not inherit the lock). False: another process holds it.

    Where the system or the file system knows no locks, nothing is done.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(file, (fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX leaves open which of the two
        return False
    except OSError:  # a file system without locks
        return True
    return True
