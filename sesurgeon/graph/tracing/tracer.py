"""From one recorded call of a module to an fx graph of that module's own forward, in which its children are leaves.

Differences from ``torch.fx.symbolic_trace``: every proxy knows the (fake) value it had in the recorded call, so that
Python control flow can be followed, with a guard in the graph; optional arguments keep the pattern of the real call;
tensors made while running (``torch.rand``, ``torch.arange``) are recorded as operations; and whatever a graph could
not reproduce raises instead of being dropped.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.tracing.codegen import check_names
from sesurgeon.graph.tracing.guards import expect
from sesurgeon.graph.tracing.in_place import use_results
from sesurgeon.graph.tracing.proxy import ValueProxy, value_of_proxies
from sesurgeon.graph.tracing.record import ModuleCall

_OF_TRAINING = ("requires_grad", "grad_fn", "grad", "is_leaf")


class CallTracer(fx.Tracer):
    """Traces one call, within a :class:`sesurgeon.graph.tracing.session.TracingSession`, which asks it what to do.

    Args:
        call: the recorded call.
        fakes: the mode under which it was recorded.
        freeze_numbers: treat int and float arguments as constants (guarded), so that they can steer control flow.

    Attributes:
        pending: the recorded calls that the forward has not made yet.
        evaluating: the tracer is computing a value itself; what is called now was not called by the forward.
        finished: the forward has returned.
        mode_matters: some module was asked for its mode, or ran its own code, which may ask anything.
    """

    def __init__(self, call: ModuleCall, fakes: FakeTensorMode, freeze_numbers: bool) -> None:
        no_modules: tuple[Any, ...] = ()  # the session sees to them
        super().__init__(autowrap_modules=no_modules)
        self.root = call.module
        self.graph = fx.Graph()
        self.tensor_attrs = {}
        self.pending = list(call.children)
        self.evaluating = False
        self.finished = False
        self.mode_matters = False
        self._call = call
        self._fakes = fakes
        self._freeze_numbers = freeze_numbers
        self._running = False
        self._parameters: dict[str, fx.Proxy] = {}
        self._ranked: set[fx.Node] = set()

    def trace_forward(self) -> fx.Graph:
        """The graph of the forward of ``call.module``, with values."""
        forward = inspect.unwrap(type(self.root).forward)
        positional, keywords = self._arguments(forward)
        result = self.create_arg(self.root(*positional, **keywords))
        self.create_node("output", "output", (result,), {}, type_expr=inspect.get_annotations(forward).get("return"))
        use_results(self.root, self.graph)
        return self.graph

    @functools.cached_property
    def _paths(self) -> Mapping[nn.Module, str]:
        return {module: path for path, module in self.root.named_modules()}

    @functools.cached_property
    def _tensor_names(self) -> Mapping[int, str]:
        """By id: of parameters and buffers."""
        named = [*self.root.named_buffers(), *self.root.named_parameters()]
        return {id(tensor): name for name, tensor in named}

    # -- nodes and their values ----------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ValueProxy(node, self)

    def create_node(self, *of: Any, **more: Any) -> fx.Node:
        node = super().create_node(*of, **more)
        check_names(node)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind == "call_method" and target in ("dim", "ndimension"):
            return self.rank_of(args[0])
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if kind not in ("placeholder", "call_module"):
            proxy.node.meta["value"] = self._evaluate(kind, target, value_of_proxies(args), value_of_proxies(kwargs))
        gets_item = target is operator.getitem or (kind == "call_method" and target == "get")
        return self._or_plain(proxy) if gets_item else proxy

    def _or_plain(self, proxy: Any) -> Any:
        """``proxy``, or the None or the name that it stands for.

        A forward asks ``is None``, which no proxy can answer, and takes names for keys.
        """
        return self.settle(proxy) if proxy.value is None or isinstance(proxy.value, str) else proxy

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        with self._by_itself():
            if kind == "get_attr":
                attribute = operator.attrgetter(target)(self.root)
                return self._fakes.from_tensor(attribute) if isinstance(attribute, Tensor) else attribute
            try:
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs)
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise UntraceableError("it goes by the values in a tensor") from error

    def look_up(self, value: Any, name: str) -> Any:
        """That attribute of a recorded value."""
        with self._by_itself():
            return getattr(value, name)

    @contextlib.contextmanager
    def _by_itself(self) -> Iterator[None]:
        before, self.evaluating = self.evaluating, True
        try:
            with self._fakes, torch.no_grad():
                yield
        finally:
            self.evaluating = before

    def attribute(self, value: Any) -> Any:
        """What the forward sees of an attribute of some module: a proxy for a parameter or buffer, else the value."""
        name = self._tensor_names.get(id(value)) if isinstance(value, Tensor) else None
        if name is None:
            return value
        if name not in self._parameters:
            self._parameters[name] = self.create_proxy("get_attr", name, (), {})
        return self._parameters[name]

    def settle(self, proxy: ValueProxy, convert: Callable[[Any], Any] = lambda value: value, what: str = "") -> Any:
        """The recorded value of ``proxy`` as a Python constant; the graph will check that it is still the same."""
        value = proxy.value
        if isinstance(value, Tensor):
            raise UntraceableError("its control flow depends on the values in a tensor")
        if proxy.node.target is getattr and proxy.node.args[1] in _OF_TRAINING:
            raise UntraceableError("it asks whether a tensor needs gradients, which depends on the mode")
        converted = convert(value)  # before the guard: where it fails, nothing was taken for granted
        kind = "a shape or number" if isinstance(value, (int, float, tuple)) else "something"
        if not self.finished:
            self._guard(proxy, value, what or f"{kind} that the forward goes by")
        return converted

    def length_of(self, proxy: Any) -> Any:
        """``len(proxy)`` as a node."""
        return self.create_proxy("call_function", len, (proxy,), {})

    def keys_of(self, proxy: Any, of: str = "a mapping that the forward goes by") -> tuple[Any, ...]:
        """The keys of a mapping."""
        keys = self.create_proxy("call_function", tuple, (proxy,), {})
        return tuple(self.settle(keys, what=f"{of}: the list of its keys"))

    def rank_of(self, proxy: Any) -> int:
        """How many dimensions a tensor has."""
        rank = int(proxy.value.dim())
        if proxy.node not in self._ranked:
            self._ranked.add(proxy.node)
            asked = super().create_proxy("call_method", "dim", (proxy,), {})
            asked.node.meta["value"] = rank
            self._guard(asked, rank, "the number of dimensions of a tensor")
        return rank

    def _guard(self, proxy: Any, value: Any, what: str) -> None:
        what = f"{type(self.root).__name__}: {what}"
        self.create_proxy("call_function", expect, (proxy, value, what), {})

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and id(a) not in self._tensor_names:
            # fx would store it on the caller's module
            raise UntraceableError("its forward uses a tensor that is neither parameter nor buffer")
        if isinstance(a, enum.Enum) and type(a).__members__.get(a.name) is not a:  # fx writes its name into the code
            raise UntraceableError(f"it uses a {type(a).__name__} that is none")
        if "__fx_create_arg__" in getattr(a, "__dict__", {}):  # which fx would call
            raise UntraceableError(f"it uses a {type(a).__name__} that wants to be traced in its own way")
        if isinstance(a, np.generic):  # numpy's number, of which the code would not know the name
            a = a.item()
        if type(a) is OrderedDict:  # fx would make a plain dict of it
            a = self.create_proxy("call_function", OrderedDict, (list(a.items()),), {})
        return super().create_arg(a)

    # -- children are leaves -------------------------------------------------------------------------------------

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """What the forward gets for calling ``m``; the first call is that of the module itself."""
        if not self._running:
            self._running = True
            return type(m).forward(m, *args, **kwargs)
        path = self._paths.get(m)
        if not self.pending or not _is_the_same(m, self.pending[0].module, made_anew=path is None):
            raise UntraceableError(f"it calls {type(m).__name__} out of the recorded order")
        recorded = self.pending.pop(0)
        if path is None:  # made on the fly or held in a plain list: no name of ours reaches it, so look inside
            self.pending[:0] = recorded.children
            self.mode_matters = True
            return forward(*args, **kwargs)
        proxy = self.create_proxy("call_module", path, args, kwargs)
        proxy.node.meta |= {"value": recorded.output, "writes": recorded.writes}
        return self._or_plain(proxy)

    # -- arguments -----------------------------------------------------------------------------------------------

    def _arguments(self, forward: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """What to call the forward with: a placeholder for each of its parameters."""
        signature = inspect.signature(forward)
        given = signature.bind(self.root, *self._call.args, **self._call.kwargs).arguments
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind is parameter.VAR_POSITIONAL:
                proxy = self._placeholder(f"*{parameter.name}", (), given.get(parameter.name, ()))
                positional.extend(proxy)
            elif parameter.kind is parameter.VAR_KEYWORD:
                if given.get(parameter.name):
                    raise UntraceableError(f"it is called with free keyword arguments (**{parameter.name})")
            else:
                optional = parameter.default is not parameter.empty
                default = (parameter.default,) if optional else ()
                value = self._placeholder(parameter.name, default, given.get(parameter.name, parameter.default))
                if parameter.kind is parameter.KEYWORD_ONLY:
                    keywords[parameter.name] = value
                else:
                    positional.append(value)
        return positional, keywords

    def _placeholder(self, name: str, default: tuple[Any, ...], value: Any) -> Any:
        proxy = self.create_proxy("placeholder", name, tuple(None for _ in default), {})
        proxy.node.meta |= {"value": value} | ({"default": default[0]} if default and not name.startswith("*") else {})
        return self._lift(proxy, value, f"the argument '{name.lstrip('*')}'")

    def _lift(self, proxy: Any, value: Any, what: str) -> Any:
        """What the forward sees of an argument: proxies for tensors and numbers, in the same containers."""
        if isinstance(value, Tensor) or proxy is None or isinstance(proxy, str):
            return proxy
        if isinstance(value, (list, tuple)):
            self._guard(self.length_of(proxy), len(value), f"{what}: its length")
            items = [self._lift(proxy[index], item, what) for index, item in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            self.keys_of(proxy, what)
            return type(value)((key, self._lift(proxy[key], item, what)) for key, item in value.items())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not self._freeze_numbers:
            return proxy
        self._guard(proxy, value, what)
        return value


def _is_the_same(module: nn.Module, recorded: nn.Module, *, made_anew: bool) -> bool:
    """Whether it is the recorded module, or one of the same parts that each call makes anew."""
    return module is recorded or (
        made_anew
        and type(module) is type(recorded)
        and all(map(operator.is_, module._modules.values(), recorded._modules.values()))
        and len(module._modules) == len(recorded._modules)
    )
