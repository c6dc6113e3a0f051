"""The device to compute on."""

from __future__ import annotations

from typing import get_args

import torch

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import Device


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is the accelerator if this machine has one, else the CPU.

    Raises:
        UsageError: this machine has no such device, or the name is unknown.
    """
    known = get_args(Device)
    if name not in known:
        raise UsageError(f"device (={name!r}) must be one of {', '.join(known)}.")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    if name != "cpu" and (found is None or found.type != name):
        there = "only the CPU" if found is None else found.type
        raise UsageError(
            f"The device {name} was asked for, and this machine has {there}.",
            hint="Leave --device out to take what is there.",
        )
    return torch.device(name)
