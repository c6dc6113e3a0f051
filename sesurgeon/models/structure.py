"""What a network is built of, so that a later change of it is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import Tensor, nn

from sesurgeon.models.head import heads_if_any, num_outputs
from sesurgeon.models.provenance import Structure


def structure_of(model: nn.Module) -> Structure:
    """The structure of ``model``, whatever its weights and their precision.

    Modules count by path, class and ``extra_repr`` (of a convolution: channels, kernel, stride…), tensors by name and
    shape; of the heads only where they are, and how many scores they give.
    """
    heads = heads_if_any(model)
    lines = "\n".join(_lines(model, frozenset(heads)))
    return Structure(hashlib.sha256(lines.encode()).hexdigest(), num_outputs(model) if heads else None)


def _lines(model: nn.Module, heads: frozenset[str]) -> Iterator[str]:
    for path, module in model.named_modules():
        kind = type(module)
        yield path if path in heads else f"{path} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and name.rpartition(".")[0] not in heads:  # what is no tensor is extra state
            yield f"{name} {tuple(value.shape)}"
