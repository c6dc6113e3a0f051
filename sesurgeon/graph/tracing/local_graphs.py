"""The local graphs of a whole model, in one mode (train or eval)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_leaves

from sesurgeon.errors import UntraceableError
from sesurgeon.graph import ops
from sesurgeon.graph.tracing.record import ModuleCall, record_calls
from sesurgeon.graph.tracing.reuse import Grounds, looks_of
from sesurgeon.graph.tracing.session import TracingSession
from sesurgeon.interrupts import interrupts_held
from sesurgeon.models.detection import witnesses
from sesurgeon.models.footprint import Footprint
from sesurgeon.models.isolation import Leftovers, isolated
from sesurgeon.paths import join


@dataclass(frozen=True)
class LocalGraphs:
    """What one forward pass showed.

    Attributes:
        model: the network.
        training: the mode of which the graphs are.
        inputs: positional arguments of the model's forward in that pass.
        failure: why the network does not run in this mode, so that it was run in eval mode instead, and the results
            below are those of eval mode; None where it does.
        graphs: module path -> graph of that module's own forward, for every module with children, or with kernels of
            its own, that was called and could be followed, in the order of the first calls; norm layers have none.
        unfollowed: module path -> why there is no graph.
        times_called: module path -> calls in one forward pass, for every module that was called.
        shapes: module path -> the shape of the tensor that each of these calls gave; () where it gave none.
        autocast: paths of the modules that the network calls under ``torch.autocast`` of its own.
        outputs: what the model returned, true tensors.
        witnesses: what the parts of a detector gave: see :func:`sesurgeon.models.witnesses`.
        buffers: their values after the pass, by name.
        random_states: after the pass.
        grounds: what the graphs depend on.
    """

    model: nn.Module
    training: bool
    inputs: tuple[Any, ...]
    failure: str | None
    graphs: Mapping[str, fx.Graph]
    unfollowed: Mapping[str, str]
    times_called: Mapping[str, int]
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    autocast: frozenset[str]
    outputs: Any
    witnesses: Sequence[Tensor]
    buffers: Mapping[str, Tensor]
    random_states: tuple[Any, ...]
    grounds: Grounds

    @cached_property
    def tied(self) -> frozenset[str]:
        """Names of parameters and buffers that have other names, too."""
        tensors = dict(self.model.named_parameters(remove_duplicate=False))
        tensors.update(self.model.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
        names = Counter(id(tensor) for tensor in tensors.values())
        return frozenset(name for name, tensor in tensors.items() if names[id(tensor)] > 1)

    @cached_property
    def kept(self) -> frozenset[str]:
        """Names in the state dict, where buffers registered with ``persistent=False`` are not."""
        return frozenset(self.model.state_dict())

    @cached_property
    def reads(self) -> Counter[str]:
        """How many operations read each parameter or buffer by its name, as ``F.linear(x, self.weight)`` does.

        A layer's own does not count.
        """
        reads: Counter[str] = Counter()
        for path, graph in self.graphs.items():
            for node in graph.nodes:
                if node.op == "get_attr":
                    reads[join(path, node.target)] += len(ops.readers(node))
        return reads


def trace_local_graphs(
    model: nn.Module,
    inputs: tuple[Any, ...],
    *,
    training: bool,
    failure: str | None = None,
    known: LocalGraphs | None = None,
) -> LocalGraphs:
    """Run ``model(*inputs)`` once, and trace every composite module along the call that it got.

    The model is left as it was. Whatever its forward raises passes through.

    Args:
        model: the network.
        inputs: positional arguments of its forward.
        training: the mode of which the graphs are.
        failure: why it does not run in that mode on these inputs (some networks want targets then): it is run in eval
            mode instead, and traced in that mode all the same. Tracing itself runs nothing.
        known: of the same network in the other mode: graphs that must be the same are taken from there.
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with isolated(model, training=training and failure is None):
        untouched = Footprint(model)
        with witnesses(model) as seen:
            top, outputs = record_calls(model, inputs, fakes)
        leftovers = Leftovers(model)
        untouched.restore()  # what a forward sets is seen where it is not set yet
        model.train(training)
        calls = _calls_by_path(top, model)
        graphs, unfollowed, grounds = _trace_composites(calls, TracingSession(model, fakes), known)
    return LocalGraphs(
        model=model,
        training=training,
        inputs=inputs,
        failure=failure,
        graphs=graphs,
        unfollowed=unfollowed,
        times_called={path: len(group) for path, group in calls.items()},
        shapes={path: tuple(map(_shape, group)) for path, group in calls.items()},
        autocast=frozenset(path for path, group in calls.items() if any(call.autocast for call in group)),
        outputs=outputs,
        witnesses=seen,
        buffers=leftovers.buffers,
        random_states=leftovers.random_states,
        grounds=grounds,
    )


def _trace_composites(
    calls: Mapping[str, list[ModuleCall]], session: TracingSession, known: LocalGraphs | None
) -> tuple[dict[str, fx.Graph], dict[str, str], Grounds]:
    """The graphs of all composite modules that were called, by path; why others have none; and what they depend on."""
    graphs: dict[str, fx.Graph] = {}
    unfollowed: dict[str, str] = {}
    looks: dict[str, Any] = {}
    unchanged = known if known is not None and known.grounds.hold_for(session.footprint) else None

    def trace_all() -> None:
        for path, group in calls.items():
            if not ops.is_composite(group[0].module):
                continue
            look = looks_of(group)
            reused = _reused(unchanged, path, look)
            if reused is not None:
                graphs[path] = reused
                continue
            try:
                with interrupts_held():
                    graphs[path] = _trace(group, session)
            except UntraceableError as error:
                unfollowed[path] = error.message
                continue
            if not session.mode_matters:
                looks[path] = look

    session.run(trace_all)
    return graphs, unfollowed, Grounds(session.footprint, looks)


def _reused(known: LocalGraphs | None, path: str, look: list[Any]) -> fx.Graph | None:
    """The graph that the other mode has for calls that look the same; None where the module has to be traced."""
    return known.graphs[path] if known is not None and known.grounds.looks.get(path) == look else None


def _calls_by_path(top: ModuleCall, model: nn.Module) -> dict[str, list[ModuleCall]]:
    paths = {module: path for path, module in model.named_modules()}
    calls: dict[str, list[ModuleCall]] = {}
    for call in top:
        path = paths.get(call.module)
        if path is not None:
            calls.setdefault(path, []).append(call)
    return calls


def _shape(call: ModuleCall) -> tuple[int, ...]:
    return tuple(call.output.shape) if isinstance(call.output, Tensor) else ()


def _trace(group: list[ModuleCall], session: TracingSession) -> fx.Graph:
    if len({_pattern(call, values=False) for call in group}) > 1:
        raise UntraceableError("it is called several times, with different optional arguments")
    numbers_differ = len({_pattern(call, values=True) for call in group}) > 1
    try:
        return session.trace_call(group[0], freeze_numbers=False)
    except UntraceableError:
        if not any(isinstance(leaf, (int, float)) for leaf in tree_leaves((group[0].args, group[0].kwargs))):
            raise
    if numbers_differ:
        raise UntraceableError("it is called several times, with different numbers that steer it")
    return session.trace_call(group[0], freeze_numbers=True)  # a number among the arguments may steer the forward


def _pattern(call: ModuleCall, *, values: bool) -> str:
    """The kinds and containers of the arguments: all tensors are alike, and all numbers are, unless ``values``."""
    leaves, structure = tree_flatten((call.args, call.kwargs))
    return f"{structure} {[_kind(leaf, values) for leaf in leaves]}"


def _kind(leaf: Any, values: bool) -> str:
    if isinstance(leaf, Tensor):
        return "tensor"
    return type(leaf).__name__ if type(leaf) in (int, float) and not values else f"{type(leaf).__name__} {leaf!r}"
