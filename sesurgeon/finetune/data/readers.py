"""The processes that read images for a loader: how they start, fail and end."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from sesurgeon.errors import DataError

Batch = TypeVar("Batch")

_GRACE = 30  # seconds, for the longest step


def read(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader. If one of its worker processes fails, all end, and the error says so.

    Raises:
        DataError: a worker process died, or could not read an image.
    """
    with explain_dead_workers():
        try:
            yield from batches
        except (OSError, EOFError) as error:  # a batch cannot be fetched from a dead process
            end_readers(batches)
            raise _died(error) from error
        except Exception:
            end_readers(batches)
            raise


def end_readers(*loaders: Iterable[Any]) -> None:
    """End the worker processes of loaders that are no longer needed.

    Otherwise the interpreter would end them by SIGTERM, which they take for a request to stop, and wait.
    """
    for loader in loaders:
        if (readers := getattr(loader, "_iterator", None)) is not None:
            readers._shutdown_workers()


@contextlib.contextmanager
def readers_ended(loader: Iterable[Any]) -> Iterator[None]:
    """:func:`end_readers` when the body is done; a loader may live on in a reference cycle."""
    try:
        yield
    finally:
        end_readers(loader)


@contextlib.contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Turn the errors of a loader's worker processes into clear ones; torch may raise them anywhere.

    Raises:
        DataError: a worker process died, or could not read an image.
    """
    try:
        yield
    except DataError as error:
        if "Caught DataError in DataLoader worker" not in error.message:
            raise
        # torch puts the traceback of the worker in front of its message
        raise DataError(error.message.rpartition("DataError: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _died(error) from error


def start_reader(worker: int) -> None:
    """Ignore Ctrl-C and SIGHUP and delay SIGTERM, which reach all processes: the main one still needs batches.

    SIGTERM is not ignored, because Python also ends workers by it.
    """
    sys.excepthook = _report_unless_left
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _report_unless_left(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """The hook of the thread that hands batches over: it is no error that an interrupted main process takes no more."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, where)


def _died(error: Exception) -> DataError:
    return DataError(
        f"A process that reads images died: {error}",
        hint="Was it killed, or is there too little memory? Give fewer --workers, or 0.",
    )
