"""Networks whose lazy layers have not run yet: a first forward pass gives these weights, and another class."""

from __future__ import annotations

import itertools

from torch import nn
from torch.nn.parameter import is_lazy

from sesurgeon.errors import UsageError


def refuse_lazy_layers(model: nn.Module) -> None:
    """Refuse a model with parameters or buffers that have no shape yet.

    Raises:
        UsageError: it has some.
    """
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise UsageError(
                f"{type(model).__name__} is not initialised yet: {name} gets its shape in the first forward pass.",
                hint="Run it once first, on inputs of the right shape: model(images).",
            )
