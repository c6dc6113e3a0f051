"""Writing an ONNX file atomically, also above 2 GB, where it is two files of which the first names the second."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from sesurgeon.errors import OutputError, UsageError
from sesurgeon.files import atomic_write, check_writable, flush_to_disk, target_of

SUFFIX = ".onnx"


def check_onnx_path(path: Path, *, force: bool = False) -> None:
    """Refuse an output that could not be written, or (without ``force``) that has weights beside it already.

    Raises:
        UsageError: it has the suffix of another kind of file.
        OutputError: it cannot be written; see :func:`sesurgeon.files.check_writable`.
    """
    if path.suffix != SUFFIX:
        raise UsageError(f"An ONNX file cannot be called {path.name}.", hint=f"Give it a name that ends in {SUFFIX}.")
    for file in (path, *_data_files(target_of(path))):
        check_writable(file, force=force)


@contextlib.contextmanager
def onnx_draft(path: Path, *, force: bool) -> Iterator[tuple[Path, Path]]:
    """Yield temporary paths for the file and for its weights; what the block wrote there is moved when it ends.

    The weights, if there are any, are moved first, to a name that is free; the old weights are deleted last. So the
    file at ``path`` has its weights at any moment.

    Raises:
        OutputError: they cannot be written. Then the old files are still there, and nothing else.
    """
    path = target_of(path)  # the weights go beside the file itself, not beside a link to it
    before, free = _data_files(path), _free_data_file(path)
    try:
        with (
            atomic_write(path, force=force) as temporary,
            tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder,
        ):
            draft, data = Path(folder) / path.name, Path(folder) / free.name
            yield draft, data
            if data.exists():
                flush_to_disk(data)
                os.replace(data, free)
            os.replace(draft, temporary)
    except OutputError:  # not after Ctrl-C, when ``path`` may need them already
        free.unlink(missing_ok=True)
        raise
    for file in before:
        file.unlink(missing_ok=True)


def _data_files(path: Path) -> list[Path]:
    """The files that may hold the weights of ``path``: ``<path>.data``, ``<path>.2.data`` and so on."""
    name = re.compile(rf"{re.escape(path.name)}(\.\d+)?\.data")
    return [file for file in path.parent.glob("*.data") if name.fullmatch(file.name) and file.is_file()]


def _free_data_file(path: Path) -> Path:
    """The first of these names that is free."""
    names = (f"{path.name}{'' if number == 1 else f'.{number}'}.data" for number in count(1))
    return next(file for file in map(path.with_name, names) if not file.exists())
