"""Giving one module another forward, without replacing the module.

The instance gets a subclass of its own class whose ``forward`` is the code of its local graph with the blocks in it.
So it stays an instance of its class, keeps attributes, methods, hooks and state-dict keys, and deep copies, compiles
and exports as before. It cannot be pickled as a whole, as that class cannot be imported.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from torch import fx, nn

from sesurgeon.blocks.kernel.behind_norm import can_be_joined, scaled_result
from sesurgeon.errors import UsageError
from sesurgeon.graph import compile_graph
from sesurgeon.models import check_is_network
from sesurgeon.models.forwards import runs_class_forward
from sesurgeon.paths import join
from sesurgeon.placement.attributes import MARK, before, inserted

Forward = Callable[..., Any]
Anchor = tuple[fx.Node, tuple[fx.Node, ...]]
"""The node that gives a tensor, and the nodes rewired to read the block's output; () means every user of the tensor."""


def forward_with_blocks(
    original: Forward, graph: fx.Graph, owner: nn.Module, blocks: Mapping[str, nn.Module],
    anchors: Mapping[str, Anchor], name: str,
) -> Forward:  # fmt: skip
    """The forward of ``graph`` with the blocks called on their tensors.

    Args:
        original: the forward from which the graph was traced; signature and docstring are its.
        graph: a local graph; it stays as it is.
        owner: the module whose forward it is, still without blocks.
        blocks: name of the child that it will be -> the block.
        anchors: name of each block that this forward calls -> where.
        name: of the module, for tracebacks.
    """
    copy = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    copy.output(copy.graph_copy(graph, copies))
    scaled: dict[fx.Node, fx.Node] = {}
    for attribute, (node, users) in anchors.items():
        if not users:
            anchor = copies[node]
            with copy.inserting_after(anchor):
                block = copy.call_module(attribute, (anchor,))
            anchor.replace_all_uses_with(block, delete_user_cb=functools.partial(operator.is_not, block))
            scaled[node] = block
    for attribute, (node, users) in anchors.items():
        if users:
            # right before its first use: the tensor may be changed in place until then
            first = next(later for later in graph.nodes if later in users)
            value = scaled.get(node, copies[node])
            with copy.inserting_before(copies[first]):
                block = copy.call_module(attribute, (value,))
            for user in users:
                copies[user].replace_input_with(value, block)
    for attribute in anchors:
        _join_with_its_input(copy, owner, attribute, blocks[attribute])
    forward = compile_graph(copy, name)
    forward.__doc__, forward.__qualname__ = original.__doc__, original.__qualname__
    vars(forward)["__signature__"] = inspect.signature(original)
    return forward


def _join_with_its_input(graph: fx.Graph, owner: nn.Module, attribute: str, block: nn.Module) -> None:
    """Call a block and the module that gives its input in one step, if that may save some and nothing else reads it.

    See :func:`scaled_result`. Not if other operations come in between: they may write to what the module reads.
    """
    for called in graph.find_nodes(op="call_module", target=attribute):
        (given,) = called.args
        if given.op != "call_module" or len(given.users) > 1 or given.next is not called:
            continue
        if not can_be_joined(owner.get_submodule(given.target), block):
            continue
        with graph.inserting_before(given):
            modules = (graph.get_attr(given.target), graph.get_attr(attribute))
            joined = graph.call_function(scaled_result, (*modules, *given.args), dict(given.kwargs))
        called.replace_all_uses_with(joined)
        graph.erase_node(called)
        graph.erase_node(given)


def forward_then_blocks(original: Forward, attributes: Sequence[str]) -> Forward:
    """The module's own forward, and then the children of these names on its output."""

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


def rewrite(owner: nn.Module, forward: Forward, blocks: Mapping[str, nn.Module], behind: Mapping[str, str]) -> None:
    """Give ``owner``, in place, this forward and these children, whose names are free.

    Args:
        owner: the module.
        forward: its new forward.
        blocks: name -> the child.
        behind: name of one of these -> name of the child after which it goes; the others go last.
    """
    original = type(owner)
    metaclass: type = type(original)
    there = {attribute: before(owner, attribute) for attribute in blocks}
    for attribute, block in blocks.items():
        setattr(owner, attribute, block)
        if attribute in behind:
            _move(owner._modules, attribute, behind[attribute])
    members = {"forward": forward, "__module__": original.__module__, "__qualname__": original.__qualname__}
    members |= {"__doc__": original.__doc__, MARK: there}
    vars(owner).pop("forward", None)  # its class's own, bound to it, which would hide this one
    owner.__class__ = _unpicklable(metaclass)(original.__name__, (_Unannounced, original), members)


def _move(children: dict[str, nn.Module | None], name: str, behind: str) -> None:
    order = [other for other in children if other != name]
    order.insert(order.index(behind) + 1, name)
    for other in order:
        children[other] = children.pop(other)


class _Unannounced(nn.Module):
    """First base of the classes made here, so that no ``__init_subclass__`` of the user's runs for them.

    That may require keywords, or put each subclass into a registry.
    """

    def __init_subclass__(cls, **_: Any) -> None:
        pass


@functools.cache
def _unpicklable(metaclass: type) -> type:
    """``metaclass``, but for classes that raise when they are pickled, and say what to do instead.

    A pickle names the class of each object, and the classes made here cannot be found by name. Copying needs no name.
    """
    ours = type(metaclass.__name__, (metaclass,), {})
    copyreg.pickle(ours, _refuse)
    return ours


def _refuse(made: type) -> NoReturn:
    raise UsageError(
        f"A {made.__qualname__} with inserted blocks cannot be pickled.",
        hint="Use sesurgeon.save(model, path), or save model.state_dict().",
    )


def restore(owner: nn.Module) -> None:
    """Undo the :func:`rewrite` of ``owner``, which must not be covered (:func:`is_covered`)."""
    for attribute, there in inserted(owner).items():
        if there == "module":
            owner._modules[attribute] = None
            continue
        delattr(owner, attribute)
        if there == "attribute":
            owner.__dict__[attribute] = None
    vars(owner).pop("forward", None)  # ours, bound to it
    owner.__class__ = type(owner).__bases__[-1]


def is_rewritten(module: nn.Module) -> bool:
    """Whether blocks were inserted into this module's forward."""
    return bool(inserted(module))


def is_covered(module: nn.Module) -> bool:
    """Whether it got another class or forward since, on top of ours, which :func:`restore` would lose."""
    return is_rewritten(module) and (MARK not in vars(type(module)) or not runs_class_forward(module))


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The inserted blocks: module path -> block, in module order; empty where there are none."""
    check_is_network(model)
    return {
        join(path, attribute): module.get_submodule(attribute)
        for path, module in model.named_modules()
        for attribute in inserted(module)
    }
