"""Each task in a process of its own, forked from this one, with a bound on its time and on its memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
_GIB = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Bounds:
    """What one process may take.

    Attributes:
        seconds: of wall-clock time.
        gib: of memory that is really held (resident), 2**30 bytes each.
    """

    seconds: float = 600.0
    gib: float = 9.0


@dataclass(frozen=True)
class Done(Generic[Task]):
    """What became of a task.

    Attributes:
        task: as given.
        result: what the work returned; None where it did not come to that.
        death: why there is no result: a bound, a signal; "" where there is one.
        seconds: wall-clock time.
        gib: the most memory that was seen.
    """

    task: Task
    result: Any
    death: str
    seconds: float
    gib: float


class _Running(Generic[Task]):
    def __init__(self, task: Task, work: Callable[[Task], Any], log: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.task = task
        self.started = time.monotonic()
        self.gib = 0.0
        self.ours, theirs = context.Pipe(duplex=False)
        self.process: ForkProcess = context.Process(target=_run, args=(theirs, work, task, log), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def over(self, bounds: Bounds) -> str:
        """The bound that it broke; "" where it keeps both."""
        with contextlib.suppress(OSError):  # it may have ended since
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
            self.gib = max(self.gib, pages * _PAGE / _GIB)
        if self.gib > bounds.gib:
            return f"more than {bounds.gib:g} GiB of memory"
        return f"more than {bounds.seconds:g} seconds" if self.seconds > bounds.seconds else ""

    def end(self, result: Any, death: str) -> Done[Task]:
        if death:
            self.process.kill()
        self.process.join()
        self.ours.close()
        return Done(self.task, result, death, self.seconds, self.gib)


def run_all(
    tasks: Sequence[Task], work: Callable[[Task], Any], *, jobs: int, bounds: Bounds, log: Path
) -> Iterator[Done[Task]]:
    """Run ``work`` on each of ``tasks``, up to ``jobs`` side by side, and give each result when it is there.

    Args:
        tasks: started in this order.
        work: its result travels through a pipe, pickled; it must not raise.
        jobs: processes at one time.
        bounds: of each process.
        log: file to which the processes append what they print.
    """
    queue, running = list(tasks), list[_Running[Task]]()
    try:
        while queue or running:
            while queue and len(running) < jobs:
                running.append(_Running(queue.pop(0), work, log))
            wait([one.ours for one in running], timeout=0.2)
            for one in list(running):
                if (done := _look(one, bounds)) is not None:
                    running.remove(one)
                    yield done
    finally:
        for one in running:
            one.end(None, "interrupted")


def _look(one: _Running[Task], bounds: Bounds) -> Done[Task] | None:
    broken = one.over(bounds)
    if one.ours.poll():
        try:
            return one.end(one.ours.recv(), "")
        except EOFError:
            one.process.join()
            return one.end(None, f"the process ended with exit code {one.process.exitcode}")
    return one.end(None, broken) if broken else None


def _run(pipe: Connection, work: Callable[[Task], Any], task: Task, log: Path) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    pipe.send(work(task))
