"""From a module to an exported program with a dynamic batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sesurgeon.errors import UntraceableError
from sesurgeon.export.outputs import Selected, run
from sesurgeon.words import first_line

# torch.export treats sizes 0 and 1 as constants, so a dynamic batch is captured with at least two.
_CAPTURE_BATCH = 2


def capture(network: nn.Module, inputs: Iterable[Tensor]) -> ExportedProgram:
    """Capture ``network`` with a dynamic batch size.

    Args:
        network: in eval mode, with tensors in and one tensor out, or a tuple of them.
        inputs: an example, each with shape (batch, ...).

    Raises:
        UntraceableError: the graph cannot be captured, or only for one batch size.
    """
    several = tuple(
        value if len(value) >= _CAPTURE_BATCH else value.repeat(_CAPTURE_BATCH, *[1] * (value.ndim - 1))
        for value in inputs
    )
    run(network, several)
    shapes = for_each_input(network, len(several), {0: Dim("batch")})
    try:
        with quiet_exporter(), contextlib.redirect_stderr(io.StringIO()):  # on failure it prints the partial graph
            return torch.export.export(network, several, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export's errors share no base class narrower than this
        if "Constraints violated" in str(error):
            raise UntraceableError(
                f"The network works for one batch size only: {first_line(error)}",
                hint="Its forward must take the batch size from its input, as in x.view(x.shape[0], -1).",
            ) from error
        raise UntraceableError(
            f"The network could not be followed by torch.export: {first_line(error)}",
            hint="Its forward must not branch on the values of tensors.",
        ) from error


def for_each_input(network: nn.Module, count: int, value: Any) -> tuple[Any, ...]:
    """``value`` for each of ``count`` inputs, in the form that torch.export wants: all of ``*inputs`` are one tuple."""
    each = (value,) * count
    return (each,) if isinstance(network, Selected) else each


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence torch's exporters for a while.

    They warn about their own deprecations, and log whole tracebacks for problems that we check and report ourselves:
    an opset that they cannot write, a graph that they cannot capture.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
