"""The standard streams of a process, which may be closed, full, or of an encoding that lacks characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, TextIO

_FAIL = ("strict", "surrogateescape", "surrogatepass")  # for characters that the encoding lacks
_SHOWN = "sesurgeon.shown"  # replaces characters that a stream cannot write


@contextlib.contextmanager
def standard(file: TextIO | None) -> Iterator[TextIO]:
    """Yield ``file``, made to replace what it cannot write; the null device if the process was started without it."""
    if file is None:
        with open(os.devnull, "w", encoding="utf-8") as null:
            yield null
        return
    if isinstance(file, io.TextIOWrapper) and file.errors in _FAIL:
        file.reconfigure(errors=_SHOWN)  # rather than fail after the work is done
    yield file


class Expendable:
    """A text stream that raises no error when it cannot be written any more: what is left is lost.

    Training should not end because the reader of a pipe has gone or the disk of a log file is full.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _give_up(self) -> None:
        """Write to the null device from now on, what is buffered as well: Python would fail to flush that at exit."""
        with contextlib.suppress(OSError):  # not every stream is a file
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._file.fileno())
            os.close(null)


def _shown(error: UnicodeError) -> tuple[str, int]:
    """The replacement for characters that a stream cannot write.

    Bytes of a file name that are not UTF-8, which Python keeps as surrogates, are shown as ``\\xe9``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "?" for code in codes), error.end


codecs.register_error(_SHOWN, _shown)
