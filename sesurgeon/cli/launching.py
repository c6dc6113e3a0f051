"""Starting a command in several processes on this machine, through torch's elastic launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys

import typer

from sesurgeon.errors import SesurgeonError
from sesurgeon.interrupts import INTERRUPTED

_PATIENCE = "86400"  # seconds from SIGTERM to SIGKILL; torch's 30 are too few for a step, an evaluation and a state


def is_launched() -> bool:
    """Whether torchrun, accelerate or we started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def hush_torch() -> None:
    """Keep torch from warning, in each process, that no parameter is unused: which is as well. To be called before."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def leave_group() -> None:
    """Take leave of the other processes, where there are any: torch warns of those who do not."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launch(processes: int) -> None:
    """Run the command that is running now in as many processes, and leave as they do.

    Raises:
        typer.Exit: a process failed, with its exit code; or they were interrupted.
        SesurgeonError: a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # of what fails the processes and we tell
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else each takes all cores
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
        # torch itself ends those that are left by SIGTERM
        killed = next((one for one in failures if one.exitcode < 0 and one.exitcode != -signal.SIGTERM), None)
        if killed is None:
            raise typer.Exit(next((one.exitcode for one in failures if one.exitcode > 0), 1)) from error
        raise SesurgeonError(
            f"Process {killed.local_rank} of {processes} was killed by {killed.signal_name()}.",
            hint="Was there too little memory? With --resume the run goes on from its newest state.",
        ) from error
    except (SignalException, KeyboardInterrupt) as error:
        raise typer.Exit(INTERRUPTED) from error
