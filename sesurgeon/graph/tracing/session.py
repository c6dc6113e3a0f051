"""Tracing many calls in one go: Python and torch are patched once, and then one call after the other is traced.

Replacing a method of ``nn.Module`` takes milliseconds where timm is loaded (each of its 1,300 subclasses is told), more
than tracing a block.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils._device import DeviceContext

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.tracing.proxy import isinstance_of_value, len_of_value
from sesurgeon.graph.tracing.record import ModuleCall
from sesurgeon.graph.tracing.tracer import CallTracer
from sesurgeon.models.footprint import Footprint
from sesurgeon.models.forwards import runs_class_forward
from sesurgeon.randomness import random_states, same_random_states
from sesurgeon.words import first_line

# Functions that make tensors out of nothing: torch does not dispatch them on proxies among their arguments.
_FACTORIES = (
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor",
    "zeros",
)  # fmt: skip
# Code under these means more than the operations in it, and a graph would forget that; so does code under torch's
# contexts that are written as generators (fork_rng, sdpa_kernel, the flags of backends).
_CONTEXTS = (
    torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast, saved_tensors_hooks, DeviceContext,
)  # fmt: skip
_RANDOM_STATE = ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state")
_CHECKPOINTS = ("checkpoint", "_checkpoint_impl", "_checkpoint_without_reentrant_generator")
_FORGOTTEN = "part of its forward runs under {}, which a graph would forget"
# What may be different the next time the forward runs.
_SWITCHES = ("is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled")


class TracingSession(fx.Tracer):
    """Traces recorded calls of the modules of ``model``, as they are now.

    Its own trace, in the sense of fx, is that of a function that traces the calls, so that fx patches ``nn.Module``
    and ``math`` only once. The patched functions ask the tracer of the call that is being traced; while there is none,
    they do what they always do.

    Args:
        model: the network; its modules must be in the same train or eval mode as they were when recorded.
        fakes: the mode under which the calls were recorded.

    Attributes:
        footprint: the modules as they are.
        mode_matters: whether the forward that was traced last may do something else in the other mode.
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
        with self._patches():
            self.trace(work)

    def trace_call(self, call: ModuleCall, *, freeze_numbers: bool) -> fx.Graph:
        """The graph of ``call.module``'s own forward, as it was called; node.meta["value"] holds the (fake) values.

        Args:
            call: the recorded call.
            freeze_numbers: take int and float arguments for constants (guarded), so that they can steer control flow.

        Raises:
            UntraceableError: the forward cannot be written as a graph; the message says why.
        """
        module = call.module
        if not runs_class_forward(module):
            raise UntraceableError("its forward was replaced on the instance")
        if isinstance(module, fx.GraphModule):  # a class for each instance, whose copies are made around surgery's
            raise UntraceableError("it is a torch.fx.GraphModule: insert the blocks first, and trace the result")
        self._current = tracer = CallTracer(call, self._fakes, freeze_numbers)
        try:
            with _seeing_through_proxies(type(module).forward):
                graph = tracer.trace_forward()
            self.mode_matters = tracer.mode_matters or freeze_numbers  # or else another try came before
        except UntraceableError:
            raise
        except Exception as error:  # user code may raise anything while it is being traced
            raise UntraceableError(f"{type(error).__name__}: {first_line(error)}") from error
        finally:
            self._current, tracer.finished = None, True
            changed = self.footprint.restore(module)
            has_drawn = self._has_drawn()
        if changed:
            raise UntraceableError(f"its forward sets attributes of its own ({', '.join(sorted(set(changed)))})")
        if has_drawn:  # operations on proxies draw nothing
            raise UntraceableError("its forward draws random numbers where no graph sees it")
        if tracer.pending:
            skipped = type(tracer.pending[0].module).__name__
            raise UntraceableError(f"its forward calls {skipped} where no graph sees it")
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
            replace(torch.jit.ScriptFunction, "__call__", self._recorded_script())
            for context in _CONTEXTS:
                reason = _FORGOTTEN.format(context.__name__)
                for step in ("__init__", "__enter__"):  # autocast begins by asking for a text, which no proxy is
                    replace(context, step, self._refused(getattr(context, step), reason))
            replace(contextlib._GeneratorContextManager, "__enter__", self._refusing_contexts())
            replace(torch, "is_tensor", lambda item: isinstance_of_value(item, Tensor))

            def refuse(holder: Any, name: str, reason: str) -> None:
                if hasattr(holder, name):
                    replace(holder, name, self._refused(getattr(holder, name), reason))

            for name in _SWITCHES:
                refuse(torch, name, f"its forward asks torch.{name}()")
            for name, holder in itertools.product(_RANDOM_STATE, (torch, torch.random, torch.cuda)):
                refuse(holder, name, f"its forward calls torch.{name}(), which a graph would forget")
            refuse(torch.set_grad_enabled, "__init__", "its forward switches gradients on or off")
            for name in _CHECKPOINTS:
                refuse(torch.utils.checkpoint, name, "its forward uses activation checkpointing")
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

        def put(module: nn.Module, value: Any) -> None:
            if self._asked() is not None and "training" in module.__dict__:  # else it is being made
                raise UntraceableError("its forward sets attributes of its own (training)")
            module.__dict__["training"] = value

        return property(
            get,
            put,
            lambda module: module.__dict__.__delitem__("training"),
        )

    def _recorded_apply(self) -> Any:
        unbound = inspect.getattr_static(torch.autograd.Function, "apply")

        def recorded(cls: Any, *args: Any, **kwargs: Any) -> Any:
            asked = self._asked()
            if asked is None:
                return unbound.__get__(None, cls)(*args, **kwargs)
            apply = _named(lambda *of: cls.apply(*of), cls.__module__, f"apply_{cls.__name__}")
            return asked.create_proxy("call_function", apply, args, kwargs)

        return classmethod(recorded)

    def _recorded_script(self) -> Callable[..., Any]:
        run = torch.jit.ScriptFunction.__call__

        def recorded(function: Any, *args: Any, **kwargs: Any) -> Any:
            asked = self._asked()
            if asked is None:
                return run(function, *args, **kwargs)
            scripted = _named(function, __name__, f"script_{function.name}")
            return asked.create_proxy("call_function", scripted, args, kwargs)

        return recorded

    def _refusing_contexts(self) -> Callable[..., Any]:
        enter = contextlib._GeneratorContextManager.__enter__

        def refuse(manager: Any) -> Any:
            module, name = manager.func.__module__ or "", manager.func.__name__
            if self._asked() is not None and module.split(".")[0] == "torch" and module != parametrize.__name__:
                raise UntraceableError(_FORGOTTEN.format(f"{module}.{name}"))
            return enter(manager)

        return refuse

    def _refused(self, original: Callable[..., Any], reason: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if self._asked() is None:
                return original(*args, **kwargs)
            raise UntraceableError(reason)

        return refuse


@contextlib.contextmanager
def _seeing_through_proxies(forward: Callable[..., Any]) -> Iterator[None]:
    """``isinstance`` and ``len``, in the file of ``forward``, see the value behind a proxy; ``print`` sees nothing."""
    names = inspect.unwrap(forward).__globals__
    seen = {"isinstance": isinstance_of_value, "len": len_of_value, "print": lambda *_, **__: None}
    shadowed = {name: names[name] for name in seen if name in names}
    names.update(seen)
    try:
        yield
    finally:
        for name in seen:
            del names[name]
        names.update(shadowed)


def _named(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """``function`` with a name that fx can write into code."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__module__, call.__name__ = module, name
    return call
