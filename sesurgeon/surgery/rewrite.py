"""Giving one module another forward, without another module taking its place.

The instance gets a subclass of its own class whose ``forward`` is the code of its local graph with the blocks in it.
So it stays an instance of its class, keeps attributes, methods, hooks and state-dict keys, and deep copies, compiles
and exports as before.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn

from sesurgeon.graph import compile_graph
from sesurgeon.placement.attributes import MARK, Before, before, inserted

Forward = Callable[..., Any]


def forward_with_blocks(graph: fx.Graph, blocks: Mapping[str, fx.Node], name: str) -> Forward:
    """The forward of ``graph`` with, after each given node, a call of the child of that name on its value.

    Everything that used the node's value uses the child's then.
    """
    copy = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    copy.output(copy.graph_copy(graph, copies))
    for attribute, node in blocks.items():
        anchor = copies[node]
        with copy.inserting_after(anchor):
            block = copy.call_module(attribute, (anchor,))
        anchor.replace_all_uses_with(block, delete_user_cb=functools.partial(operator.is_not, block))
    return compile_graph(copy, name)


def forward_then_blocks(original: Forward, attributes: Sequence[str]) -> Forward:
    """The module's own forward, and the children of these names on its output."""

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        for attribute in attributes:
            output = getattr(self, attribute)(output)
        return output

    return forward


def forward_by_mode(original: Forward, in_eval: Forward, in_train: Forward) -> Forward:
    """Follow ``self.training``, for a forward that reads it itself (functional dropout, random depth)."""

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return in_train(self, *args, **kwargs) if self.training else in_eval(self, *args, **kwargs)

    return forward


def rewrite(owner: nn.Module, forward: Forward, blocks: Mapping[str, nn.Module]) -> None:
    """Give ``owner`` this forward and, under free names, these children; in place."""
    original = type(owner)
    there = {attribute: before(owner, attribute) for attribute in blocks}
    for attribute, block in blocks.items():
        setattr(owner, attribute, block)
    members = {"forward": forward, "__module__": original.__module__, "__qualname__": original.__qualname__}
    owner.__class__ = type(original.__name__, (original,), {**members, "__doc__": original.__doc__, MARK: there})


def restore(owner: nn.Module) -> None:
    """Take back the :func:`rewrite` of ``owner``, which must not be covered (:func:`is_covered`)."""
    for attribute, there in inserted(owner).items():
        if there == "module":
            owner._modules[attribute] = None
            continue
        delattr(owner, attribute)
        if there == "attribute":
            owner.__dict__[attribute] = None
    owner.__class__ = type(owner).__bases__[0]


def is_rewritten(module: nn.Module) -> bool:
    """Whether blocks were inserted into this module's forward."""
    return bool(inserted(module))


def is_covered(module: nn.Module) -> bool:
    """Whether another class was put above ours since, which :func:`restore` would lose."""
    return is_rewritten(module) and MARK not in vars(type(module))


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The inserted blocks: module path -> block, in module order; empty where there are none."""
    return {
        f"{path}.{attribute}".lstrip("."): module.get_submodule(attribute)
        for path, module in model.named_modules()
        for attribute in inserted(module)
    }
