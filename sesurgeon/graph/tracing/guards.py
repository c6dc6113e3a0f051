"""What a traced forward took for granted, checked each time it runs.

A local graph holds the branches that were taken on the example inputs. Where a branch depended on an optional
argument or on a shape, the generated code checks that the choice would be the same again, instead of silently computing
something else.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from sesurgeon.errors import UntraceableError

_SYMBOLIC = (torch.SymInt, torch.SymBool, torch.SymFloat, torch.Tensor)


def expect(value: Any, expected: Any, what: str) -> None:
    """Raise unless ``value`` is the one ``expected``, as it was while tracing.

    Raises:
        UntraceableError: it is another; ``what`` names it.
    """
    if isinstance(value, fx.Proxy) or value is expected or (_kind(value) is _kind(expected) and value == expected):
        return  # torch.fx traces along the same choices
    if isinstance(value, _SYMBOLIC) and isinstance(expected, (bool, int, float)) and bool(value == expected):
        return  # torch.export and torch.jit.trace pass sizes as symbols, and specialise here
    raise UntraceableError(
        f"{what} was {expected!r} when the blocks were inserted and is {value!r} now.",
        hint="Insert the blocks again with example inputs of this kind (--input-shape, or example_inputs=).",
    )


def goes_by_sizes(graph: fx.Graph) -> bool:
    """Whether the forward behind ``graph`` took its way by numbers made of sizes, or compared them, and refuses others.

    That a shape has so many entries, as where it is unpacked, is none of these.
    """
    return any(node.target is expect and _is_of_sizes(node.args[0]) for node in graph.nodes)


def _is_of_sizes(guarded: Any) -> bool:
    if not isinstance(guarded, fx.Node) or not isinstance(guarded.meta.get("value"), (int, float)):
        return False
    made_of = [node.meta.get("value") for node in guarded.all_input_nodes]
    if guarded.target is operator.getitem:
        return isinstance(made_of[0], torch.Size)
    return guarded.target == "size" or (bool(made_of) and all(isinstance(value, (int, float)) for value in made_of))


def _kind(value: Any) -> type:
    return tuple if isinstance(value, torch.Size) else type(value)  # the code holds sizes as tuples
