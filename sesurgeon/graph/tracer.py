"""From one recorded call of a module to an fx graph of that module's own forward, its children being leaves.

Differences to ``torch.fx.symbolic_trace``: every proxy knows the (fake) value it had in the recorded call, so that
Python control flow can be followed, with a guard in the graph; optional arguments keep the pattern of the real call;
tensors made while running (``torch.rand``, ``torch.arange``) are recorded as operations; and whatever a graph could
not reproduce raises instead of being dropped.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import operator
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.guards import expect
from sesurgeon.graph.proxy import ValueProxy, isinstance_of_value, len_of_value, value_of_proxies
from sesurgeon.graph.record import ModuleCall
from sesurgeon.models import random_states
from sesurgeon.models.footprint import Footprint

# Functions that make tensors out of nothing: torch does not dispatch them on proxies among their arguments.
_FACTORIES = (
    "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros",
)  # fmt: skip
# Blocks of code under these mean more than the operations in them, and a graph would forget that.
_CONTEXTS = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast)
# What may be different the next time the forward runs.
_SWITCHES = ("is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled")


def trace_call(call: ModuleCall, fakes: FakeTensorMode, *, freeze_numbers: bool) -> fx.Graph:
    """The graph of ``call.module``'s own forward, as it was called; node.meta["value"] holds the (fake) values.

    Args:
        call: the recorded call; the module must be in the same train or eval mode as it was then.
        fakes: the mode under which the call was recorded.
        freeze_numbers: take int and float arguments for constants (guarded), so that they can steer control flow.

    Raises:
        UntraceableError: the forward cannot be written as a graph; the message says why.
    """
    module = call.module
    if "forward" in module.__dict__:
        raise UntraceableError("its forward was replaced on the instance")
    footprint = Footprint(module)
    random_state = _fingerprint(random_states())
    try:
        tracer = _CallTracer(call, fakes, freeze_numbers)
        with tracer.patches():
            graph = tracer.trace(module)
    except UntraceableError:
        raise
    except Exception as error:  # user code may raise anything while it is being traced
        raise UntraceableError(f"{type(error).__name__}: {_first_line(error)}") from error
    finally:
        changed = footprint.restore()
    if changed:
        raise UntraceableError(f"its forward sets attributes of its own ({', '.join(sorted(set(changed)))})")
    if _fingerprint(random_states()) != random_state:  # operations on proxies draw nothing
        raise UntraceableError("its forward draws random numbers where no graph sees it")
    if tracer.pending:
        raise UntraceableError(f"its forward calls {type(tracer.pending[0].module).__name__} where no graph sees it")
    return graph


def _fingerprint(states: tuple[Any, ...]) -> bytes:
    return pickle.dumps([state.tolist() if isinstance(state, Tensor) else state for state in states[:3]])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


class _CallTracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, call: ModuleCall, fakes: FakeTensorMode, freeze_numbers: bool) -> None:
        super().__init__(autowrap_modules=(math,))
        self.call = call
        self.fakes = fakes
        self.freeze_numbers = freeze_numbers
        self.pending = list(call.children)
        self.evaluating = False
        self.thread = threading.get_ident()

    def bypassed(self) -> bool:
        """Whether a patched function was called by other code than the forward: by us, or in another thread."""
        return self.evaluating or threading.get_ident() != self.thread

    # -- nodes and their values ----------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind == "call_method" and target in ("dim", "ndimension"):
            return value_of_proxies(args[0]).dim()  # the rank is the architecture's, no need to guard it
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if kind not in ("placeholder", "call_module"):
            proxy.node.meta["value"] = self._evaluate(kind, target, value_of_proxies(args), value_of_proxies(kwargs))
        return proxy

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        self.evaluating = True
        try:
            with self.fakes, torch.no_grad():
                if kind == "get_attr":
                    attribute = operator.attrgetter(target)(self.root)
                    return self.fakes.from_tensor(attribute) if isinstance(attribute, Tensor) else attribute
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs)
        finally:
            self.evaluating = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.bypassed() else super().getattr(attr, attr_val, parameter_proxy_cache)

    def settle(self, proxy: ValueProxy, convert: Callable[[Any], Any]) -> Any:
        """The recorded value of ``proxy`` as a Python constant; the graph will check that it is still so."""
        value = proxy.value
        if isinstance(value, Tensor):
            raise UntraceableError("its control flow depends on the values in a tensor")
        self._guard(proxy, value, f"{self._owner_name()}: a shape or number that steers the forward")
        return convert(value)

    def length_of(self, proxy: Any) -> Any:
        """``len(proxy)`` as a node."""
        return self.create_proxy("call_function", len, (proxy,), {})

    def _guard(self, proxy: Any, value: Any, what: str) -> None:
        self.create_proxy("call_function", expect, (proxy, value, what), {})

    def _owner_name(self) -> str:
        return type(self.call.module).__name__

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and not self._is_buffer(a):
            # fx would store it on the caller's module
            raise UntraceableError("its forward uses a tensor that is neither parameter nor buffer")
        return super().create_arg(a)

    def _is_buffer(self, tensor: Tensor) -> bool:
        return any(tensor is buffer for buffer in self.root.buffers())

    # -- children are leaves -------------------------------------------------------------------------------------

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.bypassed():
            return forward(*args, **kwargs)
        if not self.pending or self.pending[0].module is not m:
            raise UntraceableError(f"it calls {type(m).__name__} out of the recorded order")
        recorded = self.pending.pop(0)
        path = self.submodule_paths.get(m) if self.submodule_paths else None
        if path is None:  # made on the fly or held in a plain list: no name of ours reaches it, so look inside
            self.pending[:0] = recorded.children
            return forward(*args, **kwargs)
        proxy = self.create_proxy("call_module", path, args, kwargs)
        proxy.node.meta["value"] = recorded.output
        return proxy

    # -- arguments -----------------------------------------------------------------------------------------------

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        signature = inspect.signature(root_fn)
        given = signature.bind(self.root, *self.call.args, **self.call.kwargs).arguments
        positional: list[Any] = [self.root]
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
        return (lambda *args: root_fn(*args, **keywords)), positional

    def _placeholder(self, name: str, default: tuple[Any, ...], value: Any) -> Any:
        proxy = self.create_proxy("placeholder", name, default, {})
        proxy.node.meta["value"] = value
        return self._lift(proxy, value, f"{self._owner_name()}: the argument '{name.lstrip('*')}'")

    def _lift(self, proxy: Any, value: Any, what: str) -> Any:
        """What the forward gets to see of an argument: proxies for tensors and numbers, in the same containers."""
        if isinstance(value, Tensor):
            return proxy
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            self._guard(self.length_of(proxy), len(value), f"{what}: its length")
            return type(value)(self._lift(proxy[index], item, what) for index, item in enumerate(value))
        if isinstance(value, dict):
            keys = self.create_proxy("call_function", tuple, (proxy,), {})
            self._guard(keys, tuple(value), f"{what}: its keys")
            return type(value)((key, self._lift(proxy[key], item, what)) for key, item in value.items())
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not self.freeze_numbers:
            return proxy
        self._guard(proxy, value, what)
        return value

    # -- what must be different while tracing --------------------------------------------------------------------

    @contextlib.contextmanager
    def patches(self) -> Iterator[None]:
        """Factories are recorded, contexts refused; ``isinstance`` and ``len`` see the value behind a proxy."""
        with contextlib.ExitStack() as stack:
            for name in _FACTORIES:
                stack.enter_context(mock.patch.object(torch, name, self._recorded(getattr(torch, name))))
            stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", self._recorded_apply()))
            for context in _CONTEXTS:
                reason = f"part of its forward runs under {context.__name__}, which a graph would forget"
                stack.enter_context(mock.patch.object(context, "__enter__", self._refused(context.__enter__, reason)))
            for name in _SWITCHES:
                reason = f"its forward asks torch.{name}()"
                stack.enter_context(mock.patch.object(torch, name, self._refused(getattr(torch, name), reason)))
            switch, reason = torch.set_grad_enabled, "its forward switches gradients on or off"
            stack.enter_context(mock.patch.object(switch, "__init__", self._refused(switch.__init__, reason)))
            name, reason = "_checkpoint_without_reentrant_generator", "its forward uses activation checkpointing"
            if checkpoint := getattr(torch.utils.checkpoint, name, None):
                stack.enter_context(mock.patch.object(torch.utils.checkpoint, name, self._refused(checkpoint, reason)))
            code = inspect.unwrap(type(self.call.module).forward)
            seen = {"isinstance": isinstance_of_value, "len": len_of_value}
            stack.enter_context(mock.patch.dict(code.__globals__, seen))
            yield

    def _recorded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def factory(*args: Any, **kwargs: Any) -> Any:
            if self.bypassed():
                return function(*args, **kwargs)
            return self.create_proxy("call_function", function, args, kwargs)

        return factory

    def _recorded_apply(self) -> Any:
        unbound = inspect.getattr_static(torch.autograd.Function, "apply")

        def recorded(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if self.bypassed():
                return unbound.__get__(None, cls)(*args, **kwargs)
            return self.create_proxy("call_function", _apply_of(cls), args, kwargs)

        return classmethod(recorded)

    def _refused(self, original: Callable[..., Any], reason: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if self.bypassed():
                return original(*args, **kwargs)
            raise UntraceableError(reason)

        return refuse


def _apply_of(function: Any) -> Callable[..., Any]:
    """``function.apply`` of an autograd function, with a name that fx can write into code."""

    def apply(*args: Any) -> Any:
        return function.apply(*args)

    apply.__module__, apply.__name__ = function.__module__, f"apply_{function.__name__}"
    return apply
