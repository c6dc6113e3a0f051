"""The local graphs of a whole model, in one mode (train or eval)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_leaves

from sesurgeon.errors import UntraceableError
from sesurgeon.graph import ops
from sesurgeon.graph.tracing.record import ModuleCall, record_calls
from sesurgeon.graph.tracing.reuse import Grounds, looks_of
from sesurgeon.graph.tracing.session import TracingSession
from sesurgeon.interrupts import interrupts_held
from sesurgeon.models.detection import witnesses
from sesurgeon.models.footprint import Footprint
from sesurgeon.models.isolation import isolated, random_states


@dataclass(frozen=True)
class LocalGraphs:
    """What one forward pass showed.

    Attributes:
        model: the network.
        graphs: module path -> graph of that module's own forward, for every module with children, or with kernels of
            its own, that was called and could be followed, in the order of the first calls; norm layers have none.
        unfollowed: module path -> why there is no graph.
        times_called: module path -> calls in one forward pass, for every module that was called.
        shapes: module path -> the shape of the tensor that each of these calls gave; () where it gave none.
        autocast: paths of the modules that the network calls under ``torch.autocast`` of its own.
        outputs: what the model returned, true tensors.
        witnesses: what the parts of a detector gave: see :func:`sesurgeon.models.witnesses`.
        buffers: what was in them after the pass, by name.
        random_states: after the pass.
        proven: the forward pass was run in this very mode, so that ``outputs`` are this mode's.
        grounds: what the graphs hang on.
    """

    model: nn.Module
    graphs: Mapping[str, fx.Graph]
    unfollowed: Mapping[str, str]
    times_called: Mapping[str, int]
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    autocast: frozenset[str]
    outputs: Any
    witnesses: Sequence[Tensor]
    buffers: Mapping[str, Tensor]
    random_states: tuple[Any, ...]
    proven: bool
    grounds: Grounds


def trace_local_graphs(
    model: nn.Module,
    inputs: tuple[Any, ...],
    *,
    training: bool,
    run_in_eval: bool = False,
    known: LocalGraphs | None = None,
) -> LocalGraphs:
    """Run ``model(*inputs)`` once and trace every composite module along the call that it got.

    The model is left as it was. Whatever its forward raises passes through.

    Args:
        model: the network.
        inputs: positional arguments of its forward.
        training: the mode of which the graphs are.
        run_in_eval: run it in eval mode all the same, because it does not run in train mode on these inputs (some
            want targets then). Tracing itself runs nothing.
        known: of the same network in the other mode: graphs that must be the same are taken from there.
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    paths = {module: path for path, module in model.named_modules()}
    graphs: dict[str, fx.Graph] = {}
    unfollowed: dict[str, str] = {}
    looks: dict[str, Any] = {}
    with isolated(model, training=training and not run_in_eval):
        untouched = Footprint(model)
        with witnesses(model) as seen:
            top, outputs = record_calls(model, inputs, fakes)
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        random_left = random_states()
        untouched.restore()  # what a forward sets is seen where it is not set yet
        model.train(training)
        calls = _calls_by_path(top, paths)
        session = TracingSession(model, fakes)
        taken = known if known is not None and known.grounds.hold_for(session.footprint) else None

        def trace_composites() -> None:
            for path, group in calls.items():
                if not _is_composite(group[0].module):
                    continue
                look = looks_of(group)
                if taken is not None and taken.grounds.looks.get(path) == look:
                    graphs[path] = taken.graphs[path]
                    continue
                try:
                    with interrupts_held():
                        graphs[path] = _trace(group, session)
                except UntraceableError as error:
                    unfollowed[path] = error.message
                    continue
                if not session.mode_matters:
                    looks[path] = look

        session.run(trace_composites)
    return LocalGraphs(
        model,
        graphs,
        unfollowed,
        {path: len(group) for path, group in calls.items()},
        {path: tuple(map(_shape, group)) for path, group in calls.items()},
        frozenset(path for path, group in calls.items() if any(call.autocast for call in group)),
        outputs,
        seen,
        buffers,
        random_left,
        not run_in_eval,
        Grounds(session.footprint, looks),
    )


def _is_composite(module: nn.Module) -> bool:
    """Whether there is something to find inside. In a norm with an activation of its own (timm's) there is not."""
    followed = any(True for _ in module.children()) or ops.holds_kernels(module)
    return followed and not isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm))


def _calls_by_path(top: ModuleCall, paths: Mapping[nn.Module, str]) -> dict[str, list[ModuleCall]]:
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
    """Of what kinds the arguments are, in which containers; tensors count alike, and numbers unless ``values``."""
    leaves, structure = tree_flatten((call.args, call.kwargs))
    return f"{structure} {[_kind(leaf, values) for leaf in leaves]}"


def _kind(leaf: Any, values: bool) -> str:
    if isinstance(leaf, Tensor):
        return "tensor"
    return type(leaf).__name__ if type(leaf) in (int, float) and not values else f"{type(leaf).__name__} {leaf!r}"
