"""Running a caller's model without leaving a trace in it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import torch
from torch import nn

_SEED = 0


@contextlib.contextmanager
def isolated(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``model`` in train or eval mode under a fixed random state, and put everything back at the end.

    Put back are each module's own mode, every buffer (train mode updates running statistics), and the random
    states of torch (all devices) and Python.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(_SEED)
            random.seed(_SEED)
            model.train(training)
            yield
    finally:
        random.setstate(python_state)
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
        for module, mode in modes.items():
            module.training = mode
