"""Which forward a call of a module runs."""

from __future__ import annotations

from types import MethodType

from torch import nn


def runs_class_forward(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs the forward of its class: no other one was put on the instance.

    accelerate leaves the class's own there, bound to the module, where it takes its wrapper off again.
    """
    there = vars(module).get("forward")
    bound = isinstance(there, MethodType) and there.__self__ is module
    return there is None or (bound and there.__func__ is type(module).forward)
