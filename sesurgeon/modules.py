"""Questions about any module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_itself(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what one of these types does and nothing else.

    It is of no subclass, has no hooks and no ``forward`` of its own (as accelerate gives one), was not compiled, and no
    hooks are registered for all modules.
    """
    if type(module) not in types or "forward" in vars(module) or module._compiled_call_impl is not None:
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the model's first floating-point parameter; float32 for a model without any."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


def parameter_count(module: nn.Module) -> int:
    """How many numbers the parameters hold; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())
