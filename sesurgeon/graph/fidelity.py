"""Does a local graph do exactly what the module it was traced from does?"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.codegen import compile_graph
from sesurgeon.graph.local import LocalGraphs
from sesurgeon.graph.memo import LayerMemo, is_pure
from sesurgeon.models import fresh, isolated, random_states, restore_buffers, restore_random_states


def unfaithful(graphs: Mapping[bool, LocalGraphs], inputs: tuple[Any, ...], owners: set[str]) -> dict[str, str]:
    """Those of ``owners`` whose local graph gives other bits than the module, on any call of a forward pass; and why.

    Each call of an owner is repeated by its graph, on copies of the same arguments, from the same buffers and the
    same random state. Outputs must be equal, and so must what became of the arguments (in-place operations).
    Convolutions that get the same bits again are not computed again.
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
    memo = LayerMemo(run)
    depth, replaying, thread = 0, False, threading.get_ident()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth, replaying
        if threading.get_ident() != thread:
            return run(module, *args, **kwargs)
        if depth > 0 and is_pure(module) and len(args) == 1 and type(args[0]) is Tensor and not kwargs:
            return memo(module, args[0])
        if replaying or module not in forwards:
            return run(module, *args, **kwargs)
        path, forward = forwards[module]
        copies = fresh((args, kwargs))
        buffers = list(module.buffers())
        before, random_before = _copies(buffers), random_states()
        depth += 1
        try:
            output = run(module, *args, **kwargs)
        finally:
            depth -= 1
        after, random_after = _copies(buffers), random_states()
        _restore(buffers, before, random_before)
        depth, replaying = depth + 1, True
        try:
            again = forward(module, *copies[0], **copies[1])
            if not same(output, again):
                wrong[path] = f"{type(module).__name__}: its graph gives other values than its forward"
            elif not same((args, kwargs), copies):
                wrong[path] = f"{type(module).__name__}: its forward changes its arguments, and its graph does not"
        except Exception as error:  # generated code of a forward that was traced wrongly may raise anything
            wrong[path] = f"{type(module).__name__}: its graph does not run: {type(error).__name__}: {error}"
        finally:
            depth, replaying = depth - 1, False
            _restore(buffers, after, random_after)
        if depth == 0:
            memo.forget()
        return output

    with mock.patch.object(nn.Module, "__call__", call):
        model(*fresh(inputs))


def same(first: Any, second: Any) -> bool:
    """Whether two outputs have the same structure and, ``torch.equal``, the same tensors (NaN equals NaN)."""
    leaves, structure = tree_flatten(first)
    others, other_structure = tree_flatten(second)
    return structure == other_structure and all(map(_same_leaf, leaves, others))


def _same_leaf(first: Any, second: Any) -> bool:
    if dataclasses.is_dataclass(first) and type(first) is type(second):
        return same(vars(first), vars(second))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return _same_value(first, second)
    if torch.equal(first, second):
        return True
    if first.shape != second.shape or first.dtype != second.dtype or not first.is_floating_point():
        return False
    return torch.equal(first.isnan(), second.isnan()) and torch.equal(first.nan_to_num(), second.nan_to_num())


def _same_value(first: Any, second: Any) -> bool:
    if first is second or isinstance(first, np.ndarray):
        return first is second or bool(np.array_equal(first, second))
    if type(first).__eq__ is object.__eq__:  # type: ignore[comparison-overlap]
        raise UntraceableError(
            f"The outputs hold a {type(first).__name__}, which cannot be compared.",
            hint="Let forward return tensors, in tuples, lists, dicts or dataclasses.",
        )
    return bool(first == second)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _restore(buffers: list[Tensor], values: list[Tensor], random_state: tuple[Any, ...]) -> None:
    restore_buffers(zip(buffers, values, strict=True))
    restore_random_states(random_state)
