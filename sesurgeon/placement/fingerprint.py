"""Is this the architecture that a plan was made for?"""

from __future__ import annotations

import hashlib

from torch import nn


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and types of all parameters and buffers, and of all modules' class names.

    Weights do not enter: every ResNet-50 has the same fingerprint.
    """
    lines = [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()]
    lines += [f"{path} {type(module).__name__}" for path, module in model.named_modules()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
