"""Is this the architecture that a plan was made for?"""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError
from sesurgeon.models import heads_of


def fingerprint(model: nn.Module) -> str:
    """A hash of the names and shapes of all parameters and buffers, and of all modules' class names.

    Weights do not enter, nor does the number of classes: every ResNet-50 has the same fingerprint.
    """
    heads = tuple(f"{path}." for path in _heads(model))
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}  # or extra state
    lines = [f"{name} {tuple(value.shape)}" for name, value in tensors.items() if not name.startswith(heads)]
    lines += [f"{path} {type(module).__name__}" for path, module in model.named_modules()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _heads(model: nn.Module) -> list[str]:
    try:
        return heads_of(model)
    except SesurgeonError:  # a detector or a backbone has none
        return []
