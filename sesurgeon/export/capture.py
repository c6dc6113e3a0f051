"""From the caller's module to an exported program whose batch size is free."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import SequenceKey, tree_flatten_with_path

from sesurgeon.errors import UntraceableError
from sesurgeon.models.copies import copy_of
from sesurgeon.words import first_line

# torch.export takes sizes 0 and 1 for constants, so the batch that stands for "any" has at least two images.
_CAPTURE_BATCH = 2

ONLY_INPUT, ONLY_OUTPUT = "input", "logits"
"""What the input of a file is called, and the output of one that has but one."""


class FirstOutput(nn.Module):
    """The first output of a model that returns several, as torchvision's segmentation networks do, or its only one.

    Args:
        model: in eval mode.
        left_out: what the others are called.
    """

    def __init__(self, model: nn.Module, left_out: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.model = model
        self.left_out = left_out

    def forward(self, input: Tensor) -> Tensor:
        """Images with shape (batch, channels, height, width) -> the first output, with shape (batch, ...)."""
        output: Tensor = _first(self.model(input))
        return output


class OutputTuple(nn.Module):
    """The outputs of a model that have a batch, as a tuple.

    Args:
        model: in eval mode.
        names: of these outputs: their keys, or their numbers from one.
        left_out: what the others are called.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], left_out: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.left_out = left_out

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """Images with shape (batch, channels, height, width) -> the outputs, each with shape (batch, ...)."""
        found = _by_name(self.model(input))
        return tuple(found[name] for name in self.names)


def all_outputs(model: nn.Module, image: Tensor) -> nn.Module:
    """As :func:`one_output`, but the copy gives all outputs that are tensors with a batch, as a tuple.

    Raises:
        UntraceableError: the model cannot be copied, fails on ``image``, or gives no tensor with a batch.
    """
    prepared = _prepared(model)
    found = _by_name(run(prepared, image))
    names = tuple(name for name, value in found.items() if _has_batch(value, image))
    if not names:
        raise UntraceableError(
            "The network gives no tensor in eval mode whose first dimension is the batch.",
            hint="Wrap it in a module whose forward returns the tensors to export.",
        )
    return OutputTuple(prepared, names, tuple(name for name in found if name not in names))


def one_output(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy of ``model`` in eval mode and float32, on the CPU, that gives one tensor.

    Args:
        model: what the caller holds, in any mode and on any device.
        image: what the model takes, in float32, with shape (batch, channels, height, width).

    Raises:
        UntraceableError: the model cannot be copied, fails on ``image``, or gives no tensor with a batch.
    """
    prepared = _prepared(model)
    output = run(prepared, image)
    if not isinstance(output, Tensor):
        first = _first(output)
        if not isinstance(first, Tensor):
            raise UntraceableError(
                f"The network gives {_describe(output)} in eval mode; an export needs a tensor.",
                hint="Wrap it in a module whose forward returns the tensor to export.",
            )
        prepared, output = FirstOutput(prepared, _others(output)), first
    elif _takes_any_number(prepared):  # of inputs, which torch.export would take for a tuple
        prepared = FirstOutput(prepared)
    if not _has_batch(output, image):
        raise UntraceableError(
            f"The network turns a batch of {len(image)} into an output of shape {tuple(output.shape)}, "
            f"whose first dimension is not the batch."
        )
    return prepared


def _prepared(model: nn.Module) -> nn.Module:
    try:
        return copy_of(model).cpu().float().eval()
    except Exception as error:  # whatever a module's own attributes raise
        raise UntraceableError(f"The network cannot be copied: {first_line(error)}") from error


def capture(model: nn.Module, image: Tensor) -> ExportedProgram:
    """Follow ``model`` on ``image`` with a free batch size.

    Args:
        model: in eval mode, with one tensor in and one tensor out, or a tuple of them.
        image: an example, with shape (batch, channels, height, width).

    Raises:
        UntraceableError: the graph cannot be followed, or it holds for one batch size alone.
    """
    several = image if len(image) >= _CAPTURE_BATCH else image.repeat(_CAPTURE_BATCH, *[1] * (image.ndim - 1))
    run(model, several)
    try:
        with quiet_exporter(), contextlib.redirect_stderr(io.StringIO()):  # it prints the graph that it got so far
            return torch.export.export(model, (several,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except Exception as error:  # torch.export's errors share no base class narrower than this
        if "Constraints violated" in str(error):
            raise UntraceableError(
                f"The network works for one batch size alone: {first_line(error)}",
                hint="Its forward must take the batch size from its input, as in x.view(x.shape[0], -1).",
            ) from error
        raise UntraceableError(
            f"The network could not be followed by torch.export: {first_line(error)}",
            hint="Its forward must not branch on the values of tensors.",
        ) from error


def run(model: nn.Module, image: Tensor) -> Any:
    """What ``model`` gives for ``image``, without gradients.

    Raises:
        UntraceableError: it raises.
    """
    try:
        with torch.no_grad():
            return model(image)
    except Exception as error:  # the model's own code may raise anything
        raise UntraceableError(
            f"The network fails on an input of shape {tuple(image.shape)}: {first_line(error)}",
            hint="Give an input that it takes: --input-shape 2,3,224,224 (in Python: example_inputs=).",
        ) from error


def outputs_of(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """What a model that :func:`one_output` or :func:`all_outputs` gave has for ``image``: one tensor, or all of them.

    Raises:
        UntraceableError: it raises.
    """
    output = run(model, image)
    return output if isinstance(output, tuple) else (output,)


def shapes_of(model: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Of each of its outputs for one image, by name."""
    return {
        name: tuple(output.shape[1:]) for name, output in zip(names_of(model), outputs_of(model, image), strict=True)
    }


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence torch's exporters for a while.

    They warn about their own deprecations and log whole tracebacks for what we check, and report, ourselves
    (an opset that they could not reach, a graph that they could not follow).
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first(output: Any) -> Any:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, Sequence) and len(output) else output


def names_of(prepared: nn.Module) -> tuple[str, ...]:
    """What the outputs of ``prepared`` are called in a file."""
    return prepared.names if isinstance(prepared, OutputTuple) else (ONLY_OUTPUT,)


def left_out(prepared: nn.Module) -> tuple[str, ...]:
    """Outputs of the caller's model that ``prepared`` does not have: their keys, or their numbers."""
    return prepared.left_out if isinstance(prepared, FirstOutput | OutputTuple) else ()


def _by_name(output: Any) -> dict[str, Any]:
    """Outputs by key, or by number from one: ``out``, ``output_2``, ``output_2.1`` where they are nested."""
    return {_name(path): value for path, value in tree_flatten_with_path(output)[0]}


def _name(path: tuple[Any, ...]) -> str:
    if not path:
        return ONLY_OUTPUT
    steps = [key.idx + 1 if isinstance(key, SequenceKey) else getattr(key, "key", None) or key.name for key in path]
    start = "output_" if isinstance(steps[0], int) or steps == [ONLY_INPUT] else ""
    return start + ".".join(map(str, steps))


def _has_batch(output: Any, image: Tensor) -> bool:
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) == len(image)


def _takes_any_number(model: nn.Module) -> bool:
    """Whether its forward begins with ``*inputs``."""
    if isinstance(model, torch.jit.ScriptModule):
        return False  # its forward has no signature; and torch.export refuses it
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL


def _others(output: Any) -> tuple[str, ...]:
    names = list(output) if isinstance(output, Mapping) else range(1, len(output) + 1)
    return tuple(str(name) for name in names)[1:]


def _describe(output: object) -> str:
    if isinstance(output, Sequence) and len(output):
        return f"a {type(output).__name__} that starts with a {type(output[0]).__name__}"
    return f"a {type(output).__name__}"
