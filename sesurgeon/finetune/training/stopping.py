"""Requests to stop: a run finishes its step and writes a state first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch.distributed

# of Ctrl-C, of a cluster, and of a terminal that is closed, which Windows has not
_REQUESTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopAskedError(KeyboardInterrupt):
    """The process was asked to stop in the middle of something that can be abandoned, as an evaluation."""


@dataclass
class StopRequest:
    """Whether the process was asked to stop."""

    asked: bool = False

    def heed(self) -> None:
        """Raise :class:`StopAskedError` if it was."""
        if self.asked:
            raise StopAskedError


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take SIGINT, SIGTERM and SIGHUP as requests to stop while the block runs; a second SIGINT interrupts at once.

    In a process that torchrun started, a second SIGINT does not interrupt: a terminal sends Ctrl-C to both, and
    torchrun passes its own on. Signals that the process was started to ignore stay ignored, as with ``nohup`` or in the
    background of a script; but not SIGINT and SIGTERM under torchrun, which would kill the process.
    Outside the main thread, which alone gets signals, nothing is done.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT and not torch.distributed.is_torchelastic_launched():
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in _REQUESTS if _is_heeded(number)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_heeded(number: int) -> bool:
    """Whether a signal asks to stop: not one that is ignored, unless torchrun may pass it on, and kill the process."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        return True
    return number in (signal.SIGINT, signal.SIGTERM) and torch.distributed.is_torchelastic_launched()
