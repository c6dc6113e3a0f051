"""Copies of networks."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.models.unfit import refuse_sharded

AnyModule = TypeVar("AnyModule", bound=nn.Module)

OF_ALL_MODULES = frozenset(vars(nn.Module())) - {"_buffers"}  # attributes that hold no results


def copy_of(model: AnyModule) -> AnyModule:
    """A deep copy, also where attributes hold results of computations.

    ``copy.deepcopy`` refuses these: the weight that ``torch.nn.utils.weight_norm`` computed in the last forward pass, a
    feature map that somebody kept. Their copies have no history.
    """
    refuse_sharded(model)
    return _with_leaves(copy.deepcopy(model, _results_in(model)))


def view_of(model: AnyModule) -> AnyModule:
    """As :func:`copy_of`, but with the same parameters and buffers, not copies of them."""
    refuse_sharded(model)
    tensors = (*model.parameters(), *model.buffers())
    return _with_leaves(copy.deepcopy(model, _results_in(model) | {id(tensor): tensor for tensor in tensors}))


def _with_leaves(copied: AnyModule) -> AnyModule:
    """``copied`` with parameters that can be trained: copies of TorchScript's have an autograd history."""
    for parameter in copied.parameters():
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_()
    return copied


def _results_in(model: nn.Module) -> dict[int, object]:
    """By id: copies of the tensors in attributes that were computed from others."""
    found: dict[int, object] = {}
    for module in model.modules():
        own = [value for name, value in vars(module).items() if name not in OF_ALL_MODULES]
        for leaf in tree_leaves(own):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                found[id(leaf)] = leaf.detach().clone()
    return found
