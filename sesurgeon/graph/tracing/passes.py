"""Forward passes of a network in both modes, on inputs that somebody gave or that are made from the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.graph import ops
from sesurgeon.graph.tracing.local import LocalGraphs, trace_local_graphs
from sesurgeon.models import candidate_inputs, eval_inputs, is_detector, train_inputs
from sesurgeon.words import first_line


@dataclass(frozen=True)
class Passes:
    """Inputs that a network runs on, and what the passes showed.

    Attributes:
        inputs, train_inputs: positional arguments of its forward, in eval and in train mode.
        graphs: by mode (``training``).
        train_failure: why it does not run in train mode, so that it was run in eval mode for both; None where it does.
    """

    inputs: tuple[Any, ...]
    train_inputs: tuple[Any, ...]
    graphs: Mapping[bool, LocalGraphs]
    train_failure: str | None

    @property
    def image(self) -> tuple[int, ...]:
        """The sides of the input images, in pixels: (height, width), (depth, height, width) or (length,); () for none.

        Where images are no arguments of their own, or are scaled first as detectors do: of what the convolutions get.
        """
        local = self.graphs[False]
        for argument in self.inputs:
            if isinstance(argument, Tensor) and argument.ndim >= 3 and not is_detector(local.model):
                return tuple(argument.shape[2:])
        maps = [tuple(tensor.shape[2:]) for tensor in convolved(local) if tensor.ndim >= 3]
        return max(maps, key=lambda sides: sides[-1], default=())


def run_in_both_modes(model: nn.Module, example_inputs: Any = None) -> Passes:
    """Run ``model`` on the first inputs that it takes in both modes, or else in eval mode.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor, or a tuple of positional arguments of forward; by default made from the model.

    Raises:
        UsageError: what was given is no tensor but a numpy array.
        UntraceableError: it does not run on any of them.
    """
    in_eval_only: Passes | None = None
    failure: UntraceableError | None = None
    for given in candidate_inputs(model) if example_inputs is None else [_as_arguments(example_inputs)]:
        inputs = eval_inputs(model, given)
        try:
            graphs = {False: _trace(model, inputs, training=False)}
        except UntraceableError as error:
            failure = failure or error
            continue
        reason: UntraceableError | None = None
        for arguments in train_inputs(model, given):
            try:
                trained = _trace(model, arguments, training=True, known=graphs[False])
                return Passes(inputs, arguments, graphs | {True: trained}, None)
            except UntraceableError as error:
                reason = reason or error
        in_eval_only = in_eval_only or Passes(inputs, inputs, graphs, reason.message if reason else None)
    if in_eval_only is None:
        raise failure or UntraceableError("There are no example inputs to run the model on.")
    known = in_eval_only.graphs[False]
    instead = trace_local_graphs(model, in_eval_only.inputs, training=True, run_in_eval=True, known=known)
    return replace(in_eval_only, graphs={**in_eval_only.graphs, True: instead})


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    if any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(inputs)):
        raise UsageError("The example inputs are a numpy array.", hint="A tensor is wanted: torch.from_numpy(array).")
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _trace(
    model: nn.Module, inputs: tuple[Any, ...], *, training: bool, known: LocalGraphs | None = None
) -> LocalGraphs:
    try:
        return trace_local_graphs(model, inputs, training=training, known=known)
    except Exception as error:  # the caller's own code runs here and may raise anything
        mode = "train" if training else "eval"
        raise UntraceableError(
            f"{type(model).__name__} does not run in {mode} mode on example inputs of shape {shapes_of(inputs)}: "
            f"{type(error).__name__}: {first_line(error)}",
            hint="Give an input that it takes: --input-shape 2,3,224,224 (in Python: example_inputs=).",
        ) from error


def shapes_of(inputs: tuple[Any, ...]) -> str:
    """The shapes of all tensors in ``inputs``, for messages."""
    return ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)) or "()"


def convolved(local: LocalGraphs) -> Iterator[Tensor]:
    """The tensors that convolutions get."""
    for path, graph in local.graphs.items():
        owner = local.model.get_submodule(path)
        for node in graph.nodes:
            module = ops.module_of(owner, node)
            if module is not None and ops.is_conv(module):
                yield from (tensor for source in node.all_input_nodes if (tensor := ops.tensor_of(source)) is not None)
