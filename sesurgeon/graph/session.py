"""Tracing many calls in one go: Python and torch are changed once, and one call after the other is traced.

To replace a method of ``nn.Module`` takes milliseconds where timm is loaded (each of its 1,300 subclasses is told),
more than it takes to trace a block.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.proxy import isinstance_of_value, len_of_value
from sesurgeon.graph.record import ModuleCall
from sesurgeon.graph.tracer import CallTracer
from sesurgeon.models import random_states
from sesurgeon.models.footprint import Footprint
from sesurgeon.models.isolation import same_random_states

# Functions that make tensors out of nothing: torch does not dispatch them on proxies among their arguments.
_FACTORIES = (
    "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros",
)  # fmt: skip
# Blocks of code under these mean more than the operations in them, and a graph would forget that.
_CONTEXTS = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast)
# What may be different the next time the forward runs.
_SWITCHES = ("is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled")


class TracingSession(fx.Tracer):
    """Traces recorded calls of the modules of ``model``, as they are now.

    Its own trace, in the sense of fx, is that of a function that traces the calls: so fx's changes to ``nn.Module``
    and ``math`` are made once. Whatever the changed functions are asked is answered by the tracer of the call that is
    being traced; without one they do as always.

    Args:
        model: the network; its modules must be in the same train or eval mode as they were when recorded.
        fakes: the mode under which the calls were recorded.

    Attributes:
        footprint: the modules as they are.
        mode_matters: whether the call that was traced last may be another one in the other mode of the modules.
    """

    def __init__(self, model: nn.Module, fakes: FakeTensorMode) -> None:
        super().__init__(autowrap_modules=(math,))
        self.footprint = Footprint(model)
        self.mode_matters = True
        self._fakes = fakes
        self._random_states = random_states()
        self._current: CallTracer | None = None
        self._thread = threading.get_ident()

    def run(self, work: Callable[[], None]) -> None:
        """Do ``work``, which may call :meth:`trace_call`."""

        def trace_calls() -> None:
            work()

        with self._patches():
            self.trace(trace_calls)

    def trace_call(self, call: ModuleCall, *, freeze_numbers: bool) -> fx.Graph:
        """The graph of ``call.module``'s own forward, as it was called; node.meta["value"] holds the (fake) values.

        Args:
            call: the recorded call.
            freeze_numbers: take int and float arguments for constants (guarded), so that they can steer control flow.

        Raises:
            UntraceableError: the forward cannot be written as a graph; the message says why.
        """
        module = call.module
        if "forward" in module.__dict__:
            raise UntraceableError("its forward was replaced on the instance")
        try:
            self._current = CallTracer(call, self._fakes, freeze_numbers)
            with _seeing_through_proxies(type(module).forward):
                graph = self._current.trace_forward()
            pending = self._current.pending
            self.mode_matters = self._current.mode_matters or freeze_numbers  # or else another try came before
        except UntraceableError:
            raise
        except Exception as error:  # user code may raise anything while it is being traced
            raise UntraceableError(f"{type(error).__name__}: {_first_line(error)}") from error
        finally:
            self._current = None
            changed = self.footprint.restore(module)
            has_drawn = self._has_drawn()
        if changed:
            raise UntraceableError(f"its forward sets attributes of its own ({', '.join(sorted(set(changed)))})")
        if has_drawn:  # operations on proxies draw nothing
            raise UntraceableError("its forward draws random numbers where no graph sees it")
        if pending:
            raise UntraceableError(f"its forward calls {type(pending[0].module).__name__} where no graph sees it")
        return graph

    def _has_drawn(self) -> bool:
        before, self._random_states = self._random_states, random_states()
        return not same_random_states(before, self._random_states)

    # -- what nn.Module is changed to ask ------------------------------------------------------------------------

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """What ``m(*args, **kwargs)`` gives."""
        asked = self._asked()
        return forward(*args, **kwargs) if asked is None else asked.call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a forward gets to see of an attribute."""
        asked = self._asked()
        return attr_val if asked is None else asked.attribute(attr_val)

    def _asked(self) -> CallTracer | None:
        """The tracer of the forward that is running; None for other code: ours, or in another thread."""
        current = self._current
        bypassed = current is None or current.evaluating or threading.get_ident() != self._thread
        return None if bypassed else current

    # -- what else must be different while tracing ---------------------------------------------------------------

    @contextlib.contextmanager
    def _patches(self) -> Iterator[None]:
        """Factories and autograd functions are recorded, contexts and switches refused, modes watched."""
        with contextlib.ExitStack() as stack:

            def replace(target: Any, name: str, new: Any) -> None:
                stack.enter_context(mock.patch.object(target, name, new))

            stack.enter_context(mock.patch.object(nn.Module, "training", self._watched_mode(), create=True))
            for name in _FACTORIES:
                replace(torch, name, self._recorded(getattr(torch, name)))
            replace(torch.autograd.Function, "apply", self._recorded_apply())
            for context in _CONTEXTS:
                reason = f"part of its forward runs under {context.__name__}, which a graph would forget"
                for step in ("__init__", "__enter__"):  # autocast begins by asking for a text, which no proxy is
                    replace(context, step, self._refused(getattr(context, step), reason))
            for name in _SWITCHES:
                replace(torch, name, self._refused(getattr(torch, name), f"its forward asks torch.{name}()"))
            reason = "its forward switches gradients on or off"
            replace(torch.set_grad_enabled, "__init__", self._refused(torch.set_grad_enabled.__init__, reason))
            name, reason = "_checkpoint_without_reentrant_generator", "its forward uses activation checkpointing"
            if checkpoint := getattr(torch.utils.checkpoint, name, None):
                replace(torch.utils.checkpoint, name, self._refused(checkpoint, reason))
            yield

    def _recorded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def factory(*args: Any, **kwargs: Any) -> Any:
            asked = self._asked()
            if asked is None:
                return function(*args, **kwargs)
            return asked.create_proxy("call_function", function, args, kwargs)

        return factory

    def _watched_mode(self) -> property:
        """``training`` of all modules: a property of the class comes before what an instance holds."""

        def get(module: nn.Module) -> Any:
            asked = self._asked()
            if asked is not None:
                asked.mode_matters = True
            if "training" not in module.__dict__:  # a script module has it elsewhere
                raise AttributeError("training")
            return module.__dict__["training"]

        return property(
            get,
            lambda module, value: module.__dict__.__setitem__("training", value),
            lambda module: module.__dict__.__delitem__("training"),
        )

    def _recorded_apply(self) -> Any:
        unbound = inspect.getattr_static(torch.autograd.Function, "apply")

        def recorded(cls: Any, *args: Any, **kwargs: Any) -> Any:
            asked = self._asked()
            if asked is None:
                return unbound.__get__(None, cls)(*args, **kwargs)
            return asked.create_proxy("call_function", _apply_of(cls), args, kwargs)

        return classmethod(recorded)

    def _refused(self, original: Callable[..., Any], reason: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if self._asked() is None:
                return original(*args, **kwargs)
            raise UntraceableError(reason)

        return refuse


@contextlib.contextmanager
def _seeing_through_proxies(forward: Callable[..., Any]) -> Iterator[None]:
    """``isinstance`` and ``len``, in the file of ``forward``, see the value behind a proxy."""
    names = inspect.unwrap(forward).__globals__
    seen = {"isinstance": isinstance_of_value, "len": len_of_value}
    shadowed = {name: names[name] for name in seen if name in names}
    names.update(seen)
    try:
        yield
    finally:
        for name in seen:
            del names[name]
        names.update(shadowed)


def _apply_of(function: Any) -> Callable[..., Any]:
    """``function.apply`` of an autograd function, with a name that fx can write into code."""

    def apply(*args: Any) -> Any:
        return function.apply(*args)

    apply.__module__, apply.__name__ = function.__module__, f"apply_{function.__name__}"
    return apply


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
