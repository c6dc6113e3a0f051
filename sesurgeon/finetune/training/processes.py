"""The device and the processes of a run, through Hugging Face accelerate."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.devices import find_device

if TYPE_CHECKING:
    from accelerate import Accelerator

Value = TypeVar("Value")

_PATIENCE = timedelta(days=1)  # the others wait while the main process decodes each image on trial
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # set by launchers
_GONE = ("Connection closed by peer", "Connection reset by peer")  # gloo's words


def make_accelerator(config: FinetuneConfig, trackers: tuple[str, ...] = ()) -> Accelerator:
    """Join the processes that ``torchrun`` or ``accelerate launch`` started, or run as the only one.

    Args:
        config: of the run: device and precision.
        trackers: names of the trackers that get its numbers.

    Raises:
        UsageError: the device is not there, or cannot compute in that precision; or fewer processes were started
            than were asked for.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    _check_launched(os.environ)
    device = find_device(config.device)
    if config.amp and config.amp_dtype == "float16" and device.type == "cpu":
        raise UsageError(
            "amp_dtype (='float16') needs an accelerator, and this run is on the CPU.",
            hint="Leave --amp-dtype out to take bfloat16.",
        )
    # this state outlives an Accelerator, and would refuse other settings in the next run; process groups are kept
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=_PRECISIONS[config.amp_dtype] if config.amp else "no",
        log_with=list(trackers) or None,
        project_dir=config.output,  # until the run has a folder
        # the loop accumulates itself; without this, accelerate would divide gradients by a number in the environment
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def _check_launched(environment: Mapping[str, str]) -> None:
    """`accelerate launch --cpu` without MPI ignores `--num_processes` and silently starts one process; refuse that."""
    several = environment.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in environment
    if several and not any(name in environment for name in _SIZES):
        raise UsageError(
            "accelerate launch --cpu was asked for several processes and started one.",
            hint="Start the command itself with --num-processes, or with torchrun --nproc-per-node.",
        )


def wrap_model(model: nn.Module, accelerator: Accelerator, *, compiled: bool = False) -> nn.Module:
    """Wrap ``model`` for the training loop: gradients are averaged over the processes.

    accelerate's own wrapping is not used: it patches the model's forward, and copies of the model would keep that.
    """
    wrapped = model
    if accelerator.num_processes > 1:
        on_device = None if accelerator.device.type == "cpu" else [accelerator.device]
        # some blocks have no part in the output (if a last layer uses its class token alone); each process keeps its
        # own BatchNorm statistics, which are averaged at the end of an epoch
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters
        syncs = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch's older name
        own: dict[str, Any] = {syncs: False}
        wrapped = ddp(model, device_ids=on_device, find_unused_parameters=True, **own)
    return torch.compile(wrapped) if compiled else wrapped  # type: ignore[return-value]


@contextlib.contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Raise a clear error where torch fails because another process of the run has gone.

    Raises:
        SesurgeonError: another process no longer answers.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and not any(words in str(error) for words in _GONE):
            raise
        raise SesurgeonError(
            "Another process of the run has ended.",
            hint="Did it fail, was it killed, is there too little memory? A run that wrote a state goes on from it.",
        ) from error


@torch.no_grad()
def average_buffers(accelerator: Accelerator, model: nn.Module, names: Iterable[str]) -> None:
    """Average the BatchNorm statistics ``names`` over all processes (``--dist-bn reduce`` in timm)."""
    if accelerator.num_processes > 1:
        for buffer in map(model.get_buffer, names):
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer.clone(), reduction="mean"))


def on_main(accelerator: Accelerator, make: Callable[[], Value]) -> Value:
    """What ``make`` gives on the main process, on all processes; what it raises there is raised on all of them, too.

    Raises:
        SesurgeonError: of ``make``.
    """
    from accelerate.utils import broadcast_object_list

    made: Value | SesurgeonError | None = None
    if accelerator.is_main_process:
        try:
            made = make()
        except SesurgeonError as error:  # not for the others to wait in vain, and find that this process has gone
            made = error
    [held] = broadcast_object_list([made])
    if isinstance(held, SesurgeonError):
        raise held
    return held  # type: ignore[no-any-return]


def from_all(value: Value) -> list[Value]:
    """Each process's ``value``, in their order, on all processes."""
    from accelerate.utils import gather_object

    gathered: list[Value] = gather_object([value])
    return gathered


def any_of_all(accelerator: Accelerator, flag: bool) -> bool:
    """Whether ``flag`` is set on any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device))
    return bool(total > 0)
