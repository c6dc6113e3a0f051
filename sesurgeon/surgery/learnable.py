"""Whether what a network gives depends on the parameters of its inserted blocks, as autograd sees it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from sesurgeon.graph import Survey
from sesurgeon.models import fresh, isolated
from sesurgeon.models.copies import OF_ALL_MODULES, view_of
from sesurgeon.surgery.rewrite import blocks_of

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def unreached_blocks(augmented: nn.Module, found: Survey) -> tuple[str, ...]:
    """Paths of the blocks that no gradient of a forward pass in train mode reaches, so that they could not learn.

    For example, blocks in a part that the forward runs under ``torch.no_grad()``, or whose result it does not use. The
    pass keeps autograd's graph, but none of the tensors that a backward pass needs. It starts from all tensors in the
    outputs and in the attributes of modules, where results for the loss may lie. Nothing is found where that does not
    tell: where there is no train mode, the pass fails, the outputs hold objects of unknown kinds, or a node of another
    library, such as reentrant checkpointing, may lead to parameters of its own.

    Args:
        augmented: the network with its blocks; it is left as it was.
        found: the survey of the network before surgery.
    """
    if found.train_failure is not None:
        return ()
    before = [buffer for model in (found.model, augmented) for buffer in model.buffers() if buffer.is_leaf]
    try:
        # not in the network itself: buffers that are written to with gradients would keep their history
        view = _with_own_buffers(view_of(augmented))
        # a view may hold functions that run layers of the others
        with isolated(found.model, training=True), isolated(augmented, training=True), isolated(view, training=True):
            outputs = _passed(view, found.inputs_in(training=True))
            given = list(_tensors_in(outputs))
            ends = {leaf.grad_fn for leaf in (*given, *_results_in(view)) if leaf is not None}
    except Exception:  # the caller's own code, which ran without gradients before
        return ()
    finally:
        for buffer in before:
            if not buffer.is_leaf:
                buffer.detach_()
    nodes = _nodes_behind(end for end in ends if end is not None)
    known = [leaf for leaf in given if leaf is not None]
    if len(known) < len(given) or not any(map(_may_have_gradients, known)) or any(map(_leads_elsewhere, nodes)):
        return ()
    reached = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return tuple(
        path
        for path, block in blocks_of(augmented).items()
        if not any(id(parameter) in reached for parameter in block.parameters())
    )


def _passed(model: nn.Module, inputs: Any) -> Any:
    with torch.enable_grad(), saved_tensors_hooks(_drop, _missing), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors that need gradients, which they do not need outside
        return model(*fresh(inputs))


def _drop(_saved: Tensor) -> None:
    return None


def _missing(_kept: Any) -> Tensor:
    raise RuntimeError("No backward pass is run here.")


def _with_own_buffers(view: nn.Module) -> nn.Module:
    clones = {buffer: buffer.detach().clone() for buffer in view.buffers()}
    for module in view.modules():
        module._buffers = {name: None if one is None else clones[one] for name, one in module._buffers.items()}
    return view


def _tensors_in(value: Any) -> Iterator[Tensor | None]:
    """All tensors in tuples, lists, dicts and dataclasses; None for what may hold some and cannot be looked into."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _tensors_in(vars(leaf))
        elif not isinstance(leaf, _PLAIN):
            yield None


def _results_in(model: nn.Module) -> Iterator[Tensor | None]:
    """The tensors in attributes of modules, buffers included."""
    for module in model.modules():
        yield from _tensors_in([value for name, value in vars(module).items() if name not in OF_ALL_MODULES])


def _may_have_gradients(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()


def _nodes_behind(ends: Iterable[Node]) -> set[Node]:
    found: set[Node] = set()
    ahead = list(ends)
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += [before for before, _ in node.next_functions if before is not None]
    return found


def _leads_elsewhere(node: Any) -> bool:
    """Whether it is an ``autograd.Function`` of somebody else, whose backward may reach what is not behind it."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return False
    forward: Any = type(node)._forward_cls  # type: ignore[attr-defined]
    of_an_operator = forward.__name__.startswith("GeneratedBackwardFor_")  # as torchvision's roi_align
    return not of_an_operator and not forward.__module__.startswith("sesurgeon.")
