"""The machine that a run has: its devices and processes, through Hugging Face accelerate."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
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
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of a group, as launchers tell it
_GONE = ("Connection closed by peer", "Connection reset by peer")  # gloo's words


def make_accelerator(config: FinetuneConfig, trackers: tuple[str, ...] = ()) -> Accelerator:
    """One process of as many as ``torchrun`` or ``accelerate launch`` started, or the only one.

    Args:
        config: of the run: device and precision.
        trackers: that get its numbers.

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
    # it outlives an Accelerator, and refuses the settings of the next run; a group of processes stays one
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=_PRECISIONS[config.amp_dtype] if config.amp else "no",
        log_with=list(trackers) or None,
        project_dir=config.output,  # until the run has a folder
        # the loop accumulates itself; of a number in the environment accelerate would divide the gradients by it
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def _check_launched(environment: Mapping[str, str]) -> None:
    """``accelerate launch --cpu`` without MPI starts one process, whatever ``--num_processes`` says, and is silent."""
    several = environment.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in environment
    if several and not any(name in environment for name in _SIZES):
        raise UsageError(
            "accelerate launch --cpu was asked for several processes and started one.",
            hint="Start the command itself with --num-processes, or with torchrun --nproc-per-node.",
        )


def shared(model: nn.Module, accelerator: Accelerator, *, compiled: bool = False) -> nn.Module:
    """``model`` as the training loop calls it: gradients are averaged over the processes.

    accelerate's own wrapping is not taken, for it patches the model's forward, which would travel with copies of it.
    """
    wrapped = model
    if accelerator.num_processes > 1:
        on_device = None if accelerator.device.type == "cpu" else [accelerator.device]
        # some blocks are on no way to the output (what a last layer computes beside its class token); each process
        # keeps its own statistics, which are averaged at the end of an epoch
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters
        syncs = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch's older name
        own: dict[str, Any] = {syncs: False}
        wrapped = ddp(model, device_ids=on_device, find_unused_parameters=True, **own)
    return torch.compile(wrapped) if compiled else wrapped  # type: ignore[return-value]


@contextlib.contextmanager
def lost_processes_named() -> Iterator[None]:
    """Clear words for what torch raises when another process of the run does not answer any more.

    Raises:
        SesurgeonError: another process no longer answers.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and not any(words in str(error) for words in _GONE):
            raise
        raise SesurgeonError(
            "Another process of the run has gone.",
            hint="Did it fail, was it killed, is there too little memory? The run goes on from its newest state.",
        ) from error


@torch.no_grad()
def average_buffers(accelerator: Accelerator, model: nn.Module, names: Iterable[str]) -> None:
    """Give all processes the mean of their BatchNorm statistics (timm: ``--dist-bn reduce``), of these ``names``."""
    if accelerator.num_processes > 1:
        for buffer in map(model.get_buffer, names):
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer.clone(), reduction="mean"))


def from_main(accelerator: Accelerator, value: Value | None) -> Value:
    """What the main process has, on all of them."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes == 1:
        assert value is not None
        return value
    held: list[Any] = [value if accelerator.is_main_process else None]
    broadcast_object_list(held)
    found: Value = held[0]
    return found


def from_all(accelerator: Accelerator, value: Value) -> list[Value]:
    """What each process has, in their order, on all of them."""
    from accelerate.utils import gather_object

    if accelerator.num_processes == 1:
        return [value]
    gathered: list[Value] = gather_object([value])
    return gathered


def sums_over_all(accelerator: Accelerator, *values: float) -> list[float]:
    """The sum of each value over all processes."""
    return [sum(column) for column in zip(*from_all(accelerator, values), strict=True)]


def any_of_all(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is up on any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device))
    return bool(total > 0)
