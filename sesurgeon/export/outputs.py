"""Which of a network's outputs an exported file has, and what they are called in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import SequenceKey, tree_flatten_with_path

from sesurgeon.errors import UntraceableError
from sesurgeon.export.inputs import Inputs, takes_unnamed
from sesurgeon.words import GIVE_INPUT, first_line

ONLY_OUTPUT = "logits"
"""The name of a file's output if it has only one."""

Selection: TypeAlias = tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]
"""A network that returns the selected outputs; these for the example, by name; the names of the other outputs."""


class Selected(nn.Module):
    """A network that returns what ``select`` makes of its outputs: a tensor, or a tuple of tensors.

    Args:
        network: in eval mode.
        select: takes what the network returns.
    """

    def __init__(self, network: nn.Module, select: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model = network
        self.select = select

    def forward(self, *inputs: Tensor) -> Any:
        """What ``network`` takes -> the selected outputs, each with shape (batch, ...)."""
        return self.select(self.model(*inputs))


def first_output(network: nn.Module, inputs: Inputs) -> Selection:
    """Select the only output of ``network``, or the first of several, as of torchvision's segmentation networks.

    Raises:
        UntraceableError: the network fails on ``inputs``, or this output is not a tensor with a batch dimension.
    """
    result = run(network, inputs.values())
    first = _first_of(result)
    if not isinstance(first, Tensor):
        raise UntraceableError(
            f"The network gives {_describe(result)} in eval mode; an export needs a tensor.",
            hint="Wrap it in a module whose forward returns the tensor to export.",
        )
    if not _has_batch(first, inputs):
        raise UntraceableError(
            f"The network turns a batch of {_batch(inputs)} into an output of shape {tuple(first.shape)}, "
            f"whose first dimension is not the batch."
        )
    has_several = first is not result
    if has_several or takes_unnamed(network, len(inputs)):  # a ``Selected`` tells torch.export how they are nested
        network = Selected(network, _first_of)
    return network, {_apart_from(inputs, ONLY_OUTPUT): first}, _names_after_first(result) if has_several else ()


def all_outputs(network: nn.Module, inputs: Inputs) -> Selection:
    """Select all outputs of ``network`` that are tensors with a batch dimension.

    They are named by their keys or by their numbers from one: ``out``, ``output_2``, or ``output_2.1`` if nested.

    Raises:
        UntraceableError: the network fails on ``inputs``, or no output is a tensor with a batch dimension.
    """
    found = _by_name(run(network, inputs.values()))
    selected = {name: value for name, value in found.items() if _has_batch(value, inputs)}
    if not selected:
        raise UntraceableError(
            "The network gives no tensor in eval mode whose first dimension is the batch.",
            hint="Wrap it in a module whose forward returns the tensors to export.",
        )
    left_out = tuple(name for name in found if name not in selected)
    named = {_apart_from(inputs, name): value for name, value in selected.items()}
    return Selected(network, partial(_tuple_of, tuple(selected))), named, left_out


def run(network: nn.Module, inputs: Iterable[Tensor]) -> Any:
    """Call ``network`` on positional arguments, without gradients.

    Raises:
        UntraceableError: the network fails.
    """
    inputs = tuple(inputs)
    try:
        with torch.no_grad():
            return network(*inputs)
    except Exception as error:  # the network's own code may raise anything
        shapes = " and ".join(str(tuple(value.shape)) for value in inputs)
        raise UntraceableError(
            f"The network fails on an input of shape {shapes}: {first_line(error)}",
            hint=GIVE_INPUT,
        ) from error


def as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output of a selected network, or of a file, as a tuple even if it is a single tensor."""
    return output if isinstance(output, tuple) else (output,)


def _first_of(output: Any) -> Any:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, Sequence) and len(output) else output


def _names_after_first(output: Mapping[object, Any] | Sequence[Any]) -> tuple[str, ...]:
    named = list(output.items() if isinstance(output, Mapping) else enumerate(output, 1))
    return tuple(str(name) for name, value in named[1:] if value is not None)


def _tuple_of(names: tuple[str, ...], output: Any) -> tuple[Tensor, ...]:
    found = _by_name(output)
    return tuple(found[name] for name in names)


def _by_name(output: Any) -> dict[str, Any]:
    return {_name(path): value for path, value in tree_flatten_with_path(output)[0] if value is not None}


def _name(path: tuple[Any, ...]) -> str:
    if not path:
        return ONLY_OUTPUT
    steps = [_step(key) for key in path]
    start = "output_" if isinstance(steps[0], int) else ""
    return start + ".".join(map(str, steps))


def _step(key: Any) -> Any:
    if isinstance(key, SequenceKey):
        return key.idx + 1
    return key.key if hasattr(key, "key") else key.name


def _apart_from(inputs: Inputs, name: str) -> str:
    return f"output_{name}" if name in inputs else name


def _has_batch(output: Any, inputs: Inputs) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == _batch(inputs)


def _batch(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _describe(output: object) -> str:
    if isinstance(output, Sequence) and len(output):
        return f"a {type(output).__name__} that starts with a {type(output[0]).__name__}"
    return f"a {type(output).__name__}"
