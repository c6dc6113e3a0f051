"""What a network is built of, so that a later change of it is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import Tensor, nn

from sesurgeon.models.forwards import has_other_forward
from sesurgeon.models.head import num_outputs, score_layers
from sesurgeon.models.provenance import Structure


def structure_of(model: nn.Module) -> Structure:
    """The structure of ``model``, whatever its weights and their precision.

    Modules count by path, class, ``extra_repr`` (of a convolution: channels, kernel, stride…), rates of dropout and a
    ``forward`` that was put on the instance; tensors by name and shape. Of the layers that give
    class scores, only what does not depend on their number counts for the body.
    """
    scoring = score_layers(model)
    lines = "\n".join(_lines(model, frozenset(scoring)))
    return Structure(hashlib.sha256(lines.encode()).hexdigest(), num_outputs(model) if scoring else None)


def _lines(model: nn.Module, scoring: frozenset[str]) -> Iterator[str]:
    for path, module in model.named_modules():
        kind = type(module)
        said = "" if path in scoring else f"{module.extra_repr()} {_rates(module)}"
        forward = " another forward" if has_other_forward(module) else ""
        yield f"{path} {kind.__module__}.{kind.__qualname__} {said}{forward}"
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):  # what is none is extra state
            shape = value.shape[1:] if name.rpartition(".")[0] in scoring else value.shape
            yield f"{name} {tuple(shape)}"


def _rates(module: nn.Module) -> dict[str, float]:
    """The rates of dropout and stochastic depth, as the libraries call them. Other floats may be results."""
    rates = {name: value for name, value in vars(module).items() if name == "p" or name.startswith("drop")}
    return {name: value for name, value in rates.items() if isinstance(value, float)}
