"""Proxies that know what they stand for: the value that a node had in the recorded call."""

from __future__ import annotations

import builtins
import dis
import functools
import operator
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MappingView
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from sesurgeon.errors import UntraceableError

# What the code that is written for a graph can hold: shapes, and what else a forward takes for keys and texts.
_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, type(None))
_SINGLE = (bool, torch.dtype, torch.layout)  # of each of these there is one object: people ask for it with `is`


class ValueProxy(fx.Proxy):
    """A proxy that answers Python's questions with its recorded value, leaving a guard."""

    tracer: Any  # of graph/tracing/tracer.py
    __array_priority__ = 1000  # as a tensor's: `numpy_number * proxy` is the proxy's to compute

    @property
    def value(self) -> Any:
        return self.node.meta["value"]

    def __getattr__(self, name: str) -> Any:
        found = self.tracer.look_up(self.value, name)  # raises AttributeError where the real thing would
        if name == "ndim" and isinstance(self.value, Tensor):
            return self.tracer.rank_of(self)
        proxy = AttributeProxy(self, name)
        asks_which = isinstance(found, _SINGLE) and _asks_which_object(sys._getframe(1).f_code, isinstance(found, bool))
        return self.tracer.settle(proxy) if found is None or asks_which else proxy

    def __len__(self) -> int:
        return int(self.size(0) if isinstance(self.value, Tensor) else self.tracer.length_of(self))

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, (Mapping, MappingView)):  # these have no first item to get
            return iter(self.tracer.create_proxy("call_function", tuple, (self,), {}))
        return iter([operator.getitem(self, index) for index in range(len(self))])

    def __bool__(self) -> bool:
        return bool(self.tracer.settle(self, bool))

    def __index__(self) -> int:
        return int(self.tracer.settle(self, operator.index))

    def __int__(self) -> int:
        return int(self.tracer.settle(self, int))

    def __float__(self) -> float:
        return float(self.tracer.settle(self, float))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.tracer.settle(self), dtype)

    def __str__(self) -> str:
        return str(self.tracer.settle(self)) if is_plain(self.value) else super().__repr__()

    def __format__(self, form: str) -> str:
        return super().__repr__()  # most such texts are messages of assertions, for which no size need stay

    def __eq__(self, other: Any) -> Any:
        if self.tracer.finished:  # a cache kept it: no later call may find it there
            return self is other
        return self.tracer.create_proxy("call_function", operator.eq, (self, other), {})

    def __hash__(self) -> int:
        return hash(self.tracer.settle(self)) if is_plain(self.value) else id(self)

    def __round__(self, digits: Any = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, digits), {})

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, operation: Any, other: Any) -> Any:
        # a number is not changed by `+=`: Python then takes `+` and gives the name to the result
        in_place = isinstance(self.value, Tensor)
        return self.tracer.create_proxy("call_function", operation, (self, other), {}) if in_place else NotImplemented

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, place, value), {})

    def __contains__(self, item: Any) -> bool:
        if isinstance(self.value, Tensor):
            raise UntraceableError("it looks for a value in a tensor")
        if isinstance(self.value, Mapping):
            return item in self.tracer.keys_of(self)
        return item in (self.tracer.settle(self) if is_plain(self.value) else self.value)


class AttributeProxy(ValueProxy):
    """``proxy.name``: becomes a node when it is used as a value, and a method call when it is called."""

    def __init__(self, root: ValueProxy, name: str) -> None:
        self.root = root
        self.name = name
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]  # fx.Attribute does the same
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.name), {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.name, (self.root, *args), kwargs)


def is_plain(value: Any) -> bool:
    """Whether it is a number, a text, a shape, a type of number, a device or None, or a tuple of such."""
    return isinstance(value, _PLAIN) or (type(value) in (tuple, torch.Size) and all(map(is_plain, value)))


@functools.cache
def _asks_which_object(code: CodeType, truth: bool) -> bool:
    """Whether it asks by ``is`` for True or False, or for a dtype or layout: no proxy is asked, so it must be none."""
    kind = (bool,) if truth else (torch.dtype, torch.layout)
    steps = list(dis.get_instructions(code))
    asked = [steps[max(0, place - 4) : place] for place, step in enumerate(steps) if step.opname == "IS_OP"]
    return any(_is_about(step, kind) for before in asked for step in before)


def _is_about(step: dis.Instruction, kind: tuple[type, ...]) -> bool:
    """Whether a step of code loads such an object: True, ``torch.float16``, ``x.dtype``."""
    if step.opname == "LOAD_CONST" or not isinstance(step.argval, str):
        return isinstance(step.argval, kind)
    found = getattr(torch, step.argval, None)
    return isinstance(found, kind) or (bool not in kind and step.argval in ("dtype", "layout"))


def value_of_proxies(argument: Any) -> Any:
    """The (fake) value behind a proxy, or behind the proxies within a list, tuple, dict or slice."""
    if isinstance(argument, fx.Proxy):
        return argument.value
    if isinstance(argument, tuple) and hasattr(argument, "_fields"):
        return type(argument)(*map(value_of_proxies, argument))
    if type(argument) in (list, tuple):
        return type(argument)(map(value_of_proxies, argument))
    if type(argument) in (dict, OrderedDict):
        return type(argument)((key, value_of_proxies(item)) for key, item in argument.items())
    if isinstance(argument, slice):
        return slice(*map(value_of_proxies, (argument.start, argument.stop, argument.step)))
    return argument


def isinstance_of_value(item: Any, kind: Any) -> bool:
    """``isinstance`` that sees through proxies."""
    if builtins.isinstance(item, kind):
        return True
    return type(item) in (ValueProxy, AttributeProxy) and builtins.isinstance(item.value, kind)


def len_of_value(item: Any) -> Any:
    """``len`` that gives a proxy for a proxy of a tensor: Python's own would make the batch size a constant."""
    if type(item) in (ValueProxy, AttributeProxy) and builtins.isinstance(item.value, Tensor):
        return item.size(0)
    return builtins.len(item)
