"""From a module to an exported program with a dynamic batch size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sesurgeon.errors import UntraceableError
from sesurgeon.export.outputs import run
from sesurgeon.words import first_line

# torch.export treats sizes 0 and 1 as constants, so a dynamic batch is captured with at least two images.
_CAPTURE_BATCH = 2


def capture(network: nn.Module, images: Tensor) -> ExportedProgram:
    """Capture ``network`` with a dynamic batch size.

    Args:
        network: in eval mode, with one tensor in and one tensor out, or a tuple of them.
        images: an example, with shape (batch, channels, height, width).

    Raises:
        UntraceableError: the graph cannot be captured, or only for one batch size.
    """
    several = images if len(images) >= _CAPTURE_BATCH else images.repeat(_CAPTURE_BATCH, *[1] * (images.ndim - 1))
    run(network, several)
    try:
        with quiet_exporter(), contextlib.redirect_stderr(io.StringIO()):  # on failure it prints the partial graph
            return torch.export.export(network, (several,), dynamic_shapes=({0: Dim("batch")},), strict=False)
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
