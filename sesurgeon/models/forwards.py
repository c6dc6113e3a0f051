"""Which forward a call of a module runs."""

from __future__ import annotations

import inspect
from types import MethodType

from torch import nn


def runs_class_forward(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs the forward of its class: no other one was put on the instance.

    accelerate leaves the class's own there, bound to the module, where it takes its wrapper off again.
    """
    there = vars(module).get("forward")
    bound = isinstance(there, MethodType) and there.__self__ is module
    return there is None or (bound and there.__func__ is type(module).forward)


def is_own_forward(module: nn.Module, attribute: str) -> bool:
    """Whether an attribute of the instance is the forward of its class, however wrapped (by accelerate)."""
    there = vars(module).get(attribute)
    own = inspect.unwrap(there) if isinstance(there, MethodType) else there
    return getattr(own, "__func__", own) is type(module).forward


def forget_own_forwards(model: nn.Module) -> None:
    """Take such attributes off in place: they are what the class has anyway, and a pickle of them would run code."""
    for module in model.modules():
        for attribute in [name for name in vars(module) if is_own_forward(module, name)]:
            del vars(module)[attribute]
