"""Which forward a call of a module runs."""

from __future__ import annotations

import inspect
from types import MethodType

from torch import nn


def runs_class_forward(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs the forward of its class, and no other one that was put on the instance.

    Where accelerate takes its wrapper off again, it leaves the class's own forward on the instance.
    """
    there = vars(module).get("forward")
    bound = isinstance(there, MethodType) and there.__self__ is module
    return there is None or (bound and there.__func__ is type(module).forward)


def has_other_forward(module: nn.Module) -> bool:
    """Whether a forward was put on the instance other than its class's own, or that in a wrapper (accelerate's)."""
    return "forward" in vars(module) and not _is_own(module, vars(module)["forward"])


def forget_own_forwards(model: nn.Module) -> None:
    """Take off, in place, the forwards that accelerate leaves on instances: to unpickle them would run code."""
    for module in model.modules():
        for name in ("forward", "_original_forward"):
            if name in vars(module) and _is_own(module, vars(module)[name]):
                del vars(module)[name]


def _is_own(module: nn.Module, there: object) -> bool:
    if not (isinstance(there, MethodType) and there.__self__ is module):
        return False
    own = inspect.unwrap(there)
    return getattr(own, "__func__", own) is type(module).forward
