"""Whether the outputs depend on the parameters of inserted blocks, as autograd sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from sesurgeon.graph import Survey
from sesurgeon.models import fresh, isolated
from sesurgeon.surgery.rewrite import blocks_of


def unreached_blocks(augmented: nn.Module, found: Survey) -> tuple[str, ...]:
    """Paths of the blocks that no gradient of any output reaches, so that they could never learn.

    For example, blocks in a part that the forward runs under ``torch.no_grad()``, or whose result it does not use. A
    forward pass is run in train mode if possible, which keeps the graph but none of the tensors for a backward pass.
    Nothing is found where that does not tell: where the pass fails, no output has a gradient, or a node of another
    library, such as reentrant checkpointing, may lead to parameters of its own.

    Args:
        augmented: the network with its blocks; it is left as it was.
        found: the survey of the network before surgery.
    """
    training = found.train_failure is None
    try:
        with isolated(augmented, training=training), torch.enable_grad(), saved_tensors_hooks(_drop, _missing):
            outputs = augmented(*fresh(found.inputs_in(training)))
    except Exception:  # the caller's own code, which ran without gradients before
        return ()
    ends = [leaf.grad_fn for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    nodes = _nodes_behind(ends)
    if not nodes or any(_leads_elsewhere(node) for node in nodes):
        return ()
    reached = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return tuple(
        path
        for path, block in blocks_of(augmented).items()
        if not any(id(parameter) in reached for parameter in block.parameters())
    )


def _drop(_saved: Tensor) -> None:
    return None


def _missing(_kept: Any) -> Tensor:
    raise RuntimeError("No backward pass is run here.")


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
    return not forward.__module__.startswith("sesurgeon.")
