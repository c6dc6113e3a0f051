"""Being asked to stop: a run finishes its step and writes its state first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch.distributed


class StopAskedError(Exception):
    """Somebody asked the process to stop, in the middle of something that can be left."""


@dataclass
class StopRequest:
    """Whether somebody asked the process to stop."""

    asked: bool = False

    def heed(self) -> None:
        """Raise :class:`StopAskedError` if so."""
        if self.asked:
            raise StopAskedError


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM as requests for a while; a second SIGINT interrupts at once.

    Not so in a process that a launcher started: the launcher passes on what a terminal sent to both. Outside the main
    thread signals are nobody's business, and nothing is taken.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT and not torch.distributed.is_torchelastic_launched():
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
