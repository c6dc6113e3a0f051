"""Does a local graph do exactly what the module from which it was traced does?"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MethodType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.tracing.codegen import compile_graph
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.graph.tracing.memo import LayerMemo, is_pure
from sesurgeon.models import fresh, isolated
from sesurgeon.models.isolation import Leftovers
from sesurgeon.randomness import same_random_states


def unfaithful(local: LocalGraphs, owners: Collection[str]) -> dict[str, str]:
    """Those of ``owners`` whose local graph gives other bits than the module in some call of a forward pass; and why.

    Each call of an owner is repeated by its graph, on copies of the same arguments, from the same buffers and the
    same random state, through the same hooks. Outputs must be equal, and so must what became of the arguments
    (in-place operations), of the buffers and of the random state.
    Convolutions that get the same bits again are not computed again.

    Args:
        local: the graphs. Nothing is compared where the network does not run in their mode.
        owners: paths of modules that have a graph.
    """
    if not owners or local.failure is not None:
        return {}
    wrong: dict[str, str] = {}
    forwards: dict[nn.Module, tuple[str, Any]] = {}
    for path in owners:
        module = local.model.get_submodule(path)
        try:
            forwards[module] = path, compile_graph(local.graphs[path], path or "model")
        except Exception as error:  # a forward that was traced wrongly may give no valid code
            wrong[path] = f"{type(module).__name__}: its graph cannot be written as code: {error}"
    replay = _Replay(forwards, wrong)
    with isolated(local.model, training=local.training), mock.patch.object(nn.Module, "__call__", replay.as_method()):
        local.model(*fresh(local.inputs))
    return wrong


class _Replay:
    """``nn.Module.__call__`` for a pass in which each call of an owner is repeated by its graph.

    Args:
        forwards: owner -> its path, and its graph as a forward.
        wrong: path -> why its graph is wrong; filled during the pass.
    """

    def __init__(self, forwards: Mapping[nn.Module, tuple[str, Any]], wrong: dict[str, str]) -> None:
        self._forwards = forwards
        self._wrong = wrong
        self._run = nn.Module.__call__
        self._memo = LayerMemo(self._run)
        self._depth = 0
        self._replaying = False
        self._thread = threading.get_ident()

    def as_method(self) -> Callable[..., Any]:
        """This as a function, which a class binds to its instances."""

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self(module, args, kwargs)

        return call

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What ``module(*args, **kwargs)`` gives."""
        if threading.get_ident() != self._thread:
            return self._run(module, *args, **kwargs)
        if self._depth > 0 and is_pure(module) and len(args) == 1 and type(args[0]) is Tensor and not kwargs:
            return self._memo(module, args[0])
        if self._replaying or module not in self._forwards:
            return self._run(module, *args, **kwargs)
        copies = fresh((args, kwargs))
        before = Leftovers(module)
        with self._deeper(replaying=False):
            output = self._run(module, *args, **kwargs)
        after = Leftovers(module)
        before.restore()
        path, forward = self._forwards[module]
        try:
            with self._deeper(replaying=True), mock.patch.object(module, "forward", MethodType(forward, module)):
                again = self._run(module, *copies[0], **copies[1])
            if reason := _difference((output, (args, kwargs), after), (again, copies, Leftovers(module))):
                self._wrong[path] = f"{type(module).__name__}: {reason}"
        except Exception as error:  # generated code of a forward that was traced wrongly may raise anything
            self._wrong[path] = f"{type(module).__name__}: its graph does not run: {type(error).__name__}: {error}"
        finally:
            after.restore()
        if self._depth == 0:
            self._memo.forget()
        return output

    @contextlib.contextmanager
    def _deeper(self, *, replaying: bool) -> Iterator[None]:
        outside, self._replaying = self._replaying, replaying
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._replaying = outside


def _difference(first: tuple[Any, Any, Leftovers], second: tuple[Any, Any, Leftovers]) -> str:
    """How a graph differs from the forward; of each, the output, the arguments after it, and what it leaves behind."""
    (output, arguments, left), (again, copies, left_again) = first, second
    if not same(output, again):
        return "its graph gives other values than its forward"
    if not same(arguments, copies):
        return "its forward changes its arguments, and its graph does not"
    if not same(left.buffers, left_again.buffers):
        return "its forward leaves other values in buffers than its graph"
    if not same_random_states(left.random_states, left_again.random_states):
        return "its graph draws other random numbers"
    return ""


def same(first: Any, second: Any) -> bool:
    """Whether two outputs have the same structure and the same tensors: types, shapes, values. NaN equals NaN."""
    leaves, structure = tree_flatten(first)
    others, other_structure = tree_flatten(second)
    return structure == other_structure and all(map(_same_leaf, leaves, others))


def _same_leaf(first: Any, second: Any) -> bool:
    if dataclasses.is_dataclass(first) and type(first) is type(second):
        return same(vars(first), vars(second))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return _same_value(first, second)
    if first.shape != second.shape or first.dtype != second.dtype:  # torch.equal compares values of any types
        return False
    if torch.equal(first, second):
        return True
    if not first.is_floating_point() and not first.is_complex():
        return False
    if first.element_size() == 1:  # torch cannot tell of float8
        first, second = first.float(), second.float()
    numbers = ~first.isnan()
    return torch.equal(numbers, ~second.isnan()) and torch.equal(first[numbers], second[numbers])


def _same_value(first: Any, second: Any) -> bool:
    if first is second or isinstance(first, np.ndarray):
        return first is second or bool(np.array_equal(first, second))
    if type(first).__eq__ is object.__eq__:  # type: ignore[comparison-overlap]
        raise UntraceableError(
            f"The outputs hold a {type(first).__name__}, which cannot be compared.",
            hint="Let forward return tensors, in tuples, lists, dicts or dataclasses.",
        )
    return bool(first == second)
