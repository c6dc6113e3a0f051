"""Forward passes of a network in both modes, on inputs that somebody gave or that are made from the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.graph import ops
from sesurgeon.graph.tracing.local_graphs import LocalGraphs, trace_local_graphs
from sesurgeon.models import candidate_inputs, eval_inputs, is_detector, train_inputs
from sesurgeon.words import GIVE_INPUT, first_line, mode_name


def run_in_both_modes(model: nn.Module, example_inputs: Any = None) -> dict[bool, LocalGraphs]:
    """Run ``model`` on the first inputs that it takes in both modes, or else on the first that it takes in eval mode.

    Args:
        model: the network; it is left as it was.
        example_inputs: a tensor, or a tuple of positional arguments of forward; by default made from the model.

    Returns:
        What was seen, by mode (``training``). Where it does not run in train mode, it was run in eval mode for both.

    Raises:
        UsageError: a numpy array was given instead of a tensor.
        UntraceableError: it does not run on any of them.
    """
    first: tuple[LocalGraphs, str] | None = None  # in eval mode, and why not in train mode
    failures: list[UntraceableError] = []  # only the first: each holds on to the tensors in its traceback
    for given in candidate_inputs(model) if example_inputs is None else [_as_arguments(example_inputs)]:
        try:
            in_eval = _trace(model, eval_inputs(model, given), training=False)
        except UntraceableError as error:
            failures = failures or [error]
            continue
        reasons: list[str] = []
        for inputs in train_inputs(model, given):
            try:
                return {False: in_eval, True: _trace(model, inputs, training=True, known=in_eval)}
            except UntraceableError as error:
                reasons.append(error.message)
        first = first or (in_eval, reasons[0])
    if first is None:
        raise failures[0]
    in_eval, reason = first
    instead = trace_local_graphs(model, in_eval.inputs, training=True, failure=reason, known=in_eval)
    return {False: in_eval, True: instead}


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    if any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(inputs)):
        raise UsageError("The example inputs are a numpy array.", hint="Give a tensor: torch.from_numpy(array).")
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _trace(
    model: nn.Module, inputs: tuple[Any, ...], *, training: bool, known: LocalGraphs | None = None
) -> LocalGraphs:
    try:
        return trace_local_graphs(model, inputs, training=training, known=known)
    except Exception as error:  # the caller's own code runs here and may raise anything
        raise UntraceableError(
            f"{type(model).__name__} does not run in {mode_name(training)} mode on example inputs of shape "
            f"{shapes_of(inputs)}: {type(error).__name__}: {first_line(error)}",
            hint=GIVE_INPUT,
        ) from error


def image_sides(local: LocalGraphs) -> tuple[int, ...]:
    """The sides of the input images, in pixels: (height, width), (depth, height, width) or (length,); () for none.

    Where the images are not arguments themselves, or are resized first (as by detectors), the largest that a
    convolution gets.
    """
    for argument in local.inputs:
        if isinstance(argument, Tensor) and argument.ndim >= 3 and not is_detector(local.model):
            return tuple(argument.shape[2:])
    maps = [tuple(tensor.shape[2:]) for tensor in convolved(local) if tensor.ndim >= 3]
    return max(maps, key=lambda sides: sides[-1], default=())


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
