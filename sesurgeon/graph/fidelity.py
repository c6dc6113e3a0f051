"""Does a local graph do exactly what the module it was traced from does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from sesurgeon.graph.codegen import compile_graph
from sesurgeon.graph.local import LocalGraphs
from sesurgeon.models.isolation import isolated


def unfaithful(graphs: Mapping[bool, LocalGraphs], inputs: tuple[Any, ...], owners: set[str]) -> dict[str, str]:
    """Those of ``owners`` whose local graph gives other bits than the module, on any call of a forward pass; and why.

    Each call of an owner is repeated by its graph, on copies of the same arguments, from the same buffers and the
    same random state. Outputs must be equal, and so must what became of the arguments (in-place operations).
    """
    wrong: dict[str, str] = {}
    for training, local in graphs.items():
        if not local.proven:
            continue
        forwards = {
            local.model.get_submodule(path): (path, compile_graph(local.graphs[path], path or "model"))
            for path in owners
        }
        with isolated(local.model, training=training):
            _replay(local.model, inputs, forwards, wrong)
    return wrong


def _replay(
    model: nn.Module, inputs: tuple[Any, ...], forwards: Mapping[nn.Module, Any], wrong: dict[str, str]
) -> None:
    run = nn.Module.__call__
    replaying = False

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal replaying
        if replaying or module not in forwards:
            return run(module, *args, **kwargs)
        path, forward = forwards[module]
        copies = _copy((args, kwargs))
        buffers, random_state = _copy(list(module.buffers())), torch.get_rng_state()
        output = run(module, *args, **kwargs)
        after, random_after = _copy(list(module.buffers())), torch.get_rng_state()
        _restore(module, buffers, random_state)
        replaying = True
        try:
            again = forward(module, *copies[0], **copies[1])
            if not same(output, again):
                wrong[path] = f"{type(module).__name__}: its graph gives other values than its forward"
            elif not same((args, kwargs), copies):
                wrong[path] = f"{type(module).__name__}: its forward changes its arguments, and its graph does not"
        except Exception as error:  # generated code of a forward that was traced wrongly may raise anything
            wrong[path] = f"{type(module).__name__}: its graph does not run: {type(error).__name__}: {error}"
        finally:
            replaying = False
            _restore(module, after, random_after)
        return output

    with mock.patch.object(nn.Module, "__call__", call):
        model(*inputs)


def same(first: Any, second: Any) -> bool:
    """Whether two outputs have the same structure and, ``torch.equal``, the same tensors (NaN equals NaN)."""
    leaves, structure = tree_flatten(first)
    others, other_structure = tree_flatten(second)
    return structure == other_structure and all(map(_same_leaf, leaves, others))


def _same_leaf(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return first is second or bool(first == second)
    if torch.equal(first, second):
        return True
    if first.shape != second.shape or first.dtype != second.dtype or not first.is_floating_point():
        return False
    return torch.equal(first.isnan(), second.isnan()) and torch.equal(first.nan_to_num(), second.nan_to_num())


def _copy(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def _restore(module: nn.Module, buffers: list[Tensor], random_state: Tensor) -> None:
    for buffer, value in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(value)
    torch.set_rng_state(random_state)
