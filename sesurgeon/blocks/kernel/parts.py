"""Whether the parts of a block are still as we made them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sesurgeon.blocks.gates import GATES
from sesurgeon.blocks.layout import CONVOLUTIONS
from sesurgeon.modules import is_itself

_OURS = (*CONVOLUTIONS, nn.ReLU, *(form for gate in GATES.values() for form in (gate.identity, gate.plain)))
_WEIGHTS = {"weight", "bias"}


def are_as_made(parts: Iterable[nn.Module]) -> bool:
    """Whether all these parts compute from their input and their own parameters alone, and no hook observes them.

    Only then may they run unseen by autograd, and again in the backward pass. Others, such as dropout or a
    parametrization, may compute something else the second time; a hook may take gradients of what it sees; and a
    weight that is no parameter, because its owner computed it, must pass its gradient on.
    """
    return all(is_itself(part, *_OURS) and _has_its_weights(part) for part in parts)


def _has_its_weights(part: nn.Module) -> bool:
    return not isinstance(part, CONVOLUTIONS) or part._parameters.keys() >= _WEIGHTS
