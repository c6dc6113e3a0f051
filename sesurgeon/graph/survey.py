"""Where could a block go in this network? The answer, with all that surgery needs to put it there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.graph import ops
from sesurgeon.graph.assemble import find_places
from sesurgeon.graph.fidelity import unfaithful
from sesurgeon.graph.local import LocalGraphs, trace_local_graphs
from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.models import candidate_inputs


@dataclass(frozen=True)
class Survey:
    """Everything that is known of a network before surgery.

    Attributes:
        model: the network that was looked at.
        inputs: positional arguments of its forward that were used.
        sites: all places where a block can go, in the order in which they run, those with attention included.
        left_alone: modules with convolutions that could not be followed, and other refusals.
        graphs: by mode (``training``), what a forward pass showed.
        nodes: site id -> mode -> the node after which the block goes; None for the output of the owner as a whole.
        users: site id -> mode -> the nodes that get the block's result; () for all that use the tensor.
        train_failure: why it does not run in train mode; None where it does.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    sites: tuple[Site, ...]
    left_alone: tuple[LeftAlone, ...]
    graphs: Mapping[bool, LocalGraphs]
    nodes: Mapping[str, Mapping[bool, fx.Node | None]]
    users: Mapping[str, Mapping[bool, tuple[fx.Node, ...]]]
    train_failure: str | None

    def site(self, site_id: str) -> Site:
        """The site of that id (KeyError where there is none)."""
        return {site.id: site for site in self.sites}[site_id]


def survey(model: nn.Module, example_inputs: Any = None) -> Survey:
    """Run ``model`` in eval and in train mode, trace its modules, and find the places for blocks.

    The model is left exactly as it was (weights, buffers, modes, random state).

    Args:
        model: any ``nn.Module``; not wrapped in DataParallel or DistributedDataParallel.
        example_inputs: a tensor, or a tuple of positional arguments of forward; by default made from the model
            (timm's input size, the first convolution's channels and dimensions).

    Raises:
        UsageError: the model is wrapped.
        UntraceableError: the model has no convolution, or does not run on the inputs.
    """
    _check_model(model)
    tried = candidate_inputs(model) if example_inputs is None else [_as_arguments(example_inputs)]
    inputs, graphs, train_failure = _first_that_runs(model, tried)
    places, left_alone = find_places(graphs, _width(inputs))
    wrong = unfaithful(graphs, inputs, {place.site.owner for place in places if place.needs_graph})
    left_alone += [LeftAlone(path, reason) for path, reason in wrong.items()]
    kept = [place for place in places if not (place.needs_graph and place.site.owner in wrong)]
    return Survey(
        model,
        inputs,
        tuple(place.site for place in kept),
        tuple(left_alone),
        graphs,
        {place.site.id: place.nodes for place in kept},
        {place.site.id: place.users for place in kept},
        train_failure,
    )


def find_sites(model: nn.Module, example_inputs: Any = None) -> list[Site]:
    """The sites of ``model``, in the order in which they run: see :func:`survey`."""
    return list(survey(model, example_inputs).sites)


def _check_model(model: nn.Module) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UsageError(
            f"The model is wrapped in {type(model).__name__}.", hint="Give the network itself: model.module."
        )
    if not any(ops.is_conv(module) for module in model.modules()):
        raise UntraceableError(
            f"{type(model).__name__} has no convolution: there is no place for channel attention.",
            hint="sesurgeon works on convolutional networks; pure transformers and perceptrons are none.",
        )


def _first_that_runs(
    model: nn.Module, tried: Iterable[tuple[Any, ...]]
) -> tuple[tuple[Any, ...], dict[bool, LocalGraphs], str | None]:
    """The first inputs that run in both modes, or else in eval mode, what they showed, and why not in train mode."""
    in_eval_only: tuple[tuple[Any, ...], dict[bool, LocalGraphs], str | None] | None = None
    failure: UntraceableError | None = None
    for inputs in tried:
        try:
            graphs = {False: _trace(model, inputs, training=False)}
        except UntraceableError as error:
            failure = failure or error
            continue
        try:
            return inputs, graphs | {True: _trace(model, inputs, training=True)}, None
        except UntraceableError as error:
            in_eval_only = in_eval_only or (inputs, graphs, error.message)
    if in_eval_only is None:
        raise failure or UntraceableError("There are no example inputs to run the model on.")
    inputs, graphs, reason = in_eval_only
    graphs[True] = trace_local_graphs(model, inputs, training=True, run_in_eval=True)
    return inputs, graphs, reason


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _trace(model: nn.Module, inputs: tuple[Any, ...], *, training: bool) -> LocalGraphs:
    try:
        return trace_local_graphs(model, inputs, training=training)
    except Exception as error:  # the caller's own code runs here and may raise anything
        mode = "train" if training else "eval"
        shapes = ", ".join(str(tuple(getattr(argument, "shape", ()))) for argument in inputs)
        raise UntraceableError(
            f"{type(model).__name__} does not run in {mode} mode on example inputs of shape {shapes}: "
            f"{type(error).__name__}: {error}",
            hint="Give an input that it takes: --input-shape 2,3,224,224, or example_inputs=.",
        ) from error


def _width(inputs: tuple[Any, ...]) -> int:
    """Of the input images, in pixels; 0 where no argument is an image."""
    for argument in inputs:
        if isinstance(argument, Tensor) and argument.ndim >= 3:
            return argument.shape[-1]
    return 0
