"""Which of a network's outputs an exported file has, and what they are called in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import SequenceKey, tree_flatten_with_path

from sesurgeon.errors import UntraceableError
from sesurgeon.words import first_line

ONLY_INPUT, ONLY_OUTPUT = "input", "logits"
"""The name of a file's input, and of its output if it has only one."""

Selection: TypeAlias = tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]
"""A network that returns the selected outputs; these for the example, by name; the names of the other outputs."""


class Selected(nn.Module):
    """A network that returns what ``select`` makes of its outputs: a tensor, or a tuple of tensors.

    Args:
        network: in eval mode; it takes one tensor.
        select: takes what the network returns.
    """

    def __init__(self, network: nn.Module, select: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model = network
        self.select = select

    def forward(self, input: Tensor) -> Any:
        """Images with shape (batch, channels, height, width) -> the selected outputs, each with shape (batch, ...)."""
        return self.select(self.model(input))


def first_output(network: nn.Module, images: Tensor) -> Selection:
    """Select the only output of ``network``, or the first of several, as of torchvision's segmentation networks.

    Raises:
        UntraceableError: the network fails on ``images``, or this output is not a tensor with a batch dimension.
    """
    result = run(network, images)
    first = _first_of(result)
    if not isinstance(first, Tensor):
        raise UntraceableError(
            f"The network gives {_describe(result)} in eval mode; an export needs a tensor.",
            hint="Wrap it in a module whose forward returns the tensor to export.",
        )
    if not _has_batch(first, images):
        raise UntraceableError(
            f"The network turns a batch of {len(images)} into an output of shape {tuple(first.shape)}, "
            f"whose first dimension is not the batch."
        )
    has_several = first is not result
    if has_several or _takes_any_number(network):  # torch.export would take ``*inputs`` for a tuple
        network = Selected(network, _first_of)
    return network, {ONLY_OUTPUT: first}, _names_after_first(result) if has_several else ()


def all_outputs(network: nn.Module, images: Tensor) -> Selection:
    """Select all outputs of ``network`` that are tensors with a batch dimension.

    They are named by their keys or by their numbers from one: ``out``, ``output_2``, or ``output_2.1`` if nested.

    Raises:
        UntraceableError: the network fails on ``images``, or no output is a tensor with a batch dimension.
    """
    found = _by_name(run(network, images))
    selected = {name: value for name, value in found.items() if _has_batch(value, images)}
    if not selected:
        raise UntraceableError(
            "The network gives no tensor in eval mode whose first dimension is the batch.",
            hint="Wrap it in a module whose forward returns the tensors to export.",
        )
    left_out = tuple(name for name in found if name not in selected)
    return Selected(network, partial(_tuple_of, tuple(selected))), selected, left_out


def run(network: nn.Module, images: Tensor) -> Any:
    """Call ``network`` without gradients.

    Raises:
        UntraceableError: the network fails.
    """
    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:  # the network's own code may raise anything
        raise UntraceableError(
            f"The network fails on an input of shape {tuple(images.shape)}: {first_line(error)}",
            hint="Give an input that it takes: --input-shape 2,3,224,224 (in Python: example_inputs=).",
        ) from error


def as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The output of a selected network, or of a file, as a tuple even if it is a single tensor."""
    return output if isinstance(output, tuple) else (output,)


def _first_of(output: Any) -> Any:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, Sequence) and len(output) else output


def _names_after_first(output: Mapping[object, Any] | Sequence[Any]) -> tuple[str, ...]:
    names = list(output) if isinstance(output, Mapping) else range(1, len(output) + 1)
    return tuple(str(name) for name in names)[1:]


def _tuple_of(names: tuple[str, ...], output: Any) -> tuple[Tensor, ...]:
    found = _by_name(output)
    return tuple(found[name] for name in names)


def _by_name(output: Any) -> dict[str, Any]:
    return {_name(path): value for path, value in tree_flatten_with_path(output)[0]}


def _name(path: tuple[Any, ...]) -> str:
    if not path:
        return ONLY_OUTPUT
    steps = [key.idx + 1 if isinstance(key, SequenceKey) else getattr(key, "key", None) or key.name for key in path]
    start = "output_" if isinstance(steps[0], int) or steps == [ONLY_INPUT] else ""
    return start + ".".join(map(str, steps))


def _has_batch(output: Any, images: Tensor) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(images)


def _takes_any_number(network: nn.Module) -> bool:
    """Whether its forward begins with ``*inputs``."""
    if isinstance(network, torch.jit.ScriptModule):
        return False  # its forward has no signature; and torch.export refuses it
    first = next(iter(inspect.signature(network.forward).parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL


def _describe(output: object) -> str:
    if isinstance(output, Sequence) and len(output):
        return f"a {type(output).__name__} that starts with a {type(output[0]).__name__}"
    return f"a {type(output).__name__}"
