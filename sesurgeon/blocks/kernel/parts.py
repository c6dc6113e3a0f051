"""Whether the parts of a block are still as we made them, and its parameters its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

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


def own_parameters(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The parameters of a module, if gradients may be given to them directly; otherwise ().

    Not where other tensors stand in for them (``torch.func.functional_call``, ``DataParallel``), which may be gone by
    the time of the backward pass, and not where they have hooks, which both our gradients and autograd's would call.
    """
    parameters = tuple(module.parameters())
    return parameters if all(isinstance(one, nn.Parameter) and not one._backward_hooks for one in parameters) else ()


def require_own(parameters: Sequence[Tensor], module: nn.Module) -> None:
    """Raise a RuntimeError unless the module still has the parameters whose gradients are asked for."""
    now = tuple(module.parameters())
    if len(now) != len(parameters) or any(a is not b for a, b in zip(now, parameters, strict=True)):
        raise RuntimeError(
            f"The parameters of {type(module).__name__} are not those of its forward pass, and gradients of gradients "
            "cannot be taken. Give torch.func.functional_call tensors, not nn.Parameter, or call backward inside it."
        )
