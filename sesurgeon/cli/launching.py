"""Running a command in several processes on this machine, with torch's elastic launcher."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator

import typer

from sesurgeon.errors import SesurgeonError
from sesurgeon.interrupts import INTERRUPTED
from sesurgeon.machine import cores

_HEAD_START = 30  # seconds
_PATIENCE = "86400"  # seconds from SIGTERM to SIGKILL; torch's 30 are not enough to finish a step and save the state


def is_launched() -> bool:
    """Whether this process is one of several that torchrun, accelerate or :func:`launch` started."""
    return "LOCAL_RANK" in os.environ


def all_processes() -> int:
    """How many processes were launched, on all machines; 1 for one that runs by itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_launched() else 1


def is_main() -> bool:
    """Whether this is the process that prints."""
    return os.environ.get("RANK", "0") == "0"


def hush_torch() -> None:
    """Silence torch's warning, in each process, that no parameter is unused. Call this before torch is imported."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def leave_group() -> None:
    """Destroy the process group if there is one: torch warns otherwise."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def leave_after(code: object) -> None:
    """End this process at once with an error's exit code if it is in a process group that others may wait in.

    Its threads may still be at work, and would abort the process as Python takes its objects down
    (https://github.com/pytorch/pytorch/issues/190489). The group cannot be destroyed first: that may wait for others.
    """
    distributed = sys.modules.get("torch.distributed")
    if not isinstance(code, int) or code == 0 or distributed is None:
        return
    if distributed.is_available() and distributed.is_initialized():
        atexit._run_exitfuncs()  # trackers write their last lines then
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def main_explains() -> Iterator[None]:
    """Let the main process alone print an error that all processes have.

    The others wait for the launcher to end them, which it does when the main process fails, and print theirs only if it
    does not, half a minute later: then the error is theirs alone.
    """
    try:
        yield
    except SesurgeonError:
        if is_launched() and not is_main():
            time.sleep(_HEAD_START)
        raise


def launch(processes: int) -> None:
    """Run the current command line in this many processes, and wait for them.

    Raises:
        typer.Exit: with the exit code of a process that failed, or after an interrupt.
        SesurgeonError: a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # errors are printed already
    threads = max(1, cores() // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # otherwise each process uses all cores
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="sesurgeon",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "sesurgeon", *sys.argv[1:])
    except ChildFailedError as error:
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        # torch ends the remaining processes with SIGTERM
        killed = next((one for one in failures if one.exitcode < 0 and one.exitcode != -signal.SIGTERM), None)
        if killed is None:
            raise typer.Exit(next((one.exitcode for one in failures if one.exitcode > 0), 1)) from error
        raise SesurgeonError(
            f"Process {killed.local_rank} of {processes} was killed by {killed.signal_name()}.",
            hint="Was there too little memory? With --resume a run that wrote a state goes on from it.",
        ) from error
    except (SignalException, KeyboardInterrupt) as error:
        raise typer.Exit(INTERRUPTED) from error
