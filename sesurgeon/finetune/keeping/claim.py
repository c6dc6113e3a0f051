"""A run's folder belongs to one run at a time: a second one would delete what the first is writing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sesurgeon.errors import OutputError, UsageError

if sys.platform != "win32":
    import fcntl


_FILE = ".lock"
_TRIES = 100


def check_unclaimed(folder: Path) -> None:
    """Refuse a folder in which another process keeps a run going.

    Raises:
        UsageError: there is one.
    """
    with contextlib.suppress(FileNotFoundError), (folder / _FILE).open("rb") as file:
        if not _lock(file, exclusively=False):
            raise _going_on(folder)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes' runs out of ``folder`` for a while; the system ends the claim of one that is killed.

    Raises:
        UsageError: another process claimed it since it was looked at.
        OutputError: the folder cannot be written.
    """
    with _locked(folder):
        try:
            yield
        finally:
            (folder / _FILE).unlink(missing_ok=True)


def _locked(folder: Path) -> BinaryIO:
    """The lock file of ``folder``, open and locked."""
    path = folder / _FILE
    for _ in range(_TRIES):
        try:
            file = path.open("wb")
        except OSError as error:
            raise OutputError(
                f"The run folder {folder} cannot be written: {error.strerror or error}.",
                hint="Make it writable, or give another place with --output.",
            ) from error
        if not _lock(file, exclusively=True):
            file.close()
            raise _going_on(folder)
        # its last owner may have removed it after it was opened here: the next process would lock another file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
    raise OutputError(
        f"The lock file {path} is another each time it is looked at.", hint="Give another place with --output."
    )


def _going_on(folder: Path) -> UsageError:
    return UsageError(
        f"A run is going on in {folder}.",
        hint="Wait for it, or stop its processes (SIGTERM lets them write a state); or give another --name.",
    )


def _lock(file: BinaryIO, *, exclusively: bool) -> bool:
    """Whether the lock could be had; yes, where there are none. Processes that read images do not inherit it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(file, (fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX leaves open which of the two
        return False
    except OSError:  # a file system without locks
        return True
    return True
