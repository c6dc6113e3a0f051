"""Ctrl-C at moments when an exception would not get through."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # exit code after Ctrl-C, as of shells


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back: the handler that was there gets it at the end of the block, which should be a short one.

    What handlers raise in Python code that C++ calls, as it calls that of fake tensors and the imports of torch, may
    end the process (``std::terminate``) or be dropped. Only the main thread gets signals; in others nothing is done.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])
