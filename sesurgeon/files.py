"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from sesurgeon.errors import OutputError

StrPath = str | os.PathLike[str]
"""A path, as Python's own functions take it."""

_TOKEN_BYTES = 4  # of the random part of a temporary name
# how torch's writer of archives (a RuntimeError) and safetensors say that a disk is full
_FULL = ("PytorchStreamWriter", "unexpected pos", "iostream error", "I/O error")


def check_writable(path: Path, *, force: bool = False) -> None:
    """Refuse an output that could not be written, before any work is done for it.

    Raises:
        OutputError: ``path`` exists (without ``force``), is a directory, a device or a pipe, or has too long a name; or
            its folder is missing or read-only.
    """
    _check_length(path)
    folder = target_of(path).parent
    if path.is_dir():
        raise OutputError(f"The output {path} is a directory.", hint="Give a file name with -o.")
    if path.exists() and not path.is_file():  # /dev/null must stay what it is
        raise OutputError(f"The output {path} is not a regular file.", hint="Give another name with -o.")
    if path.exists() and not force:
        raise OutputError(
            f"The output {path} exists already.", hint="Give --force to replace it, or another name with -o."
        )
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} of the output {path.name} does not exist.", hint="Make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} is read-only.", hint="Give another place with -o.")


@contextlib.contextmanager
def atomic_write(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that is renamed to it when the block ends, and deleted if it raises.

    The temporary name has the suffix of ``path``, because some writers choose their format by it. A file that is
    replaced keeps its permissions. If ``path`` is a link, the file that it points to is replaced.

    Raises:
        OutputError: the output cannot be written: see :func:`check_writable`, or the disk is full.
    """
    check_writable(path, force=force)
    target = target_of(path)
    temporary: Path | None = None
    try:
        draft = target.with_name(_draft_name(path, secrets.token_hex(_TOKEN_BYTES)))
        draft.touch(0o600 if target.exists() else 0o666, exist_ok=False)  # the file that is replaced may be secret
        temporary = draft
        yield temporary
        flush_to_disk(temporary)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"Writing {path} failed: {error.strerror or error}.", hint="Nothing was changed at that name."
        ) from error
    except (RuntimeError, SafetensorError) as error:
        if any(words in str(error) for words in _FULL):
            raise OutputError(
                f"Writing {path} failed, the disk may be full: {error}", hint="Nothing was changed at that name."
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_drafts(folder: Path, names: Iterable[str]) -> None:
    """Delete the temporary files in ``folder`` that killed processes left of files with these ``names``.

    Args:
        folder: where :func:`atomic_write` wrote.
        names: of the files that it wrote; they may contain ``*``.
    """
    for name in names:
        for draft in folder.glob(_draft_name(Path(name), "[0-9a-f]" * (2 * _TOKEN_BYTES))):
            draft.unlink(missing_ok=True)


def _draft_name(path: Path, token: str) -> str:
    return f".{path.stem}-{token}{path.suffix}"


def _check_length(path: Path) -> None:
    try:
        os.lstat(path.parent / _draft_name(path, "0" * (2 * _TOKEN_BYTES)))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(
                f"The output {path} cannot be written: its name is too long.", hint="Give another name with -o."
            ) from error


def target_of(path: Path) -> Path:
    """The file that is written for ``path``: if it is a link, the file that it points to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
