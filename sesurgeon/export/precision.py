"""A float32 ONNX file in fewer bits, or with fewer nodes, by the tools of onnxruntime and onnxslim."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from sesurgeon.errors import UntraceableError
from sesurgeon.export.capture import quiet_exporter
from sesurgeon.export.inputs import Inputs
from sesurgeon.export.sessions import as_arrays
from sesurgeon.words import first_line

Precision = Literal["float32", "float16", "int8"]

TOLERANCES: dict[Precision, float] = {
    "float32": 1e-4,  # two runtimes add the same products in another order: 1e-7 to 1e-5 of the logits
    "float16": 2e-2,  # 11 bits, rounded layer by layer: 4e-4 (ResNet-18) to 3e-3 (MobileNetV2)
    "int8": float("inf"),  # how much is too much depends on the use: the share of labels that agree is reported
}
"""The largest ``max_rel`` from PyTorch's outputs that passes; a wrong operator gives 1e-3 or more."""


def reduce(source: Path, target: Path, precision: Precision, calibration: Sequence[Inputs]) -> None:
    """Write the float32 file at ``source`` to ``target`` in another precision; inputs and outputs stay float32.

    Args:
        source: an ONNX file.
        target: the new file.
        precision: "float16": all weights and operations; "int8": static quantisation in QDQ format, symmetric for
            weights (one scale per channel, 7 bits, so that sums overflow on no processor), asymmetric for activations.
        calibration: for "int8": batches of its inputs, from which activations get their ranges.

    Raises:
        UntraceableError: onnxruntime's tools cannot convert it.
        OSError: a file cannot be written.
    """
    with _explained(f"onnxruntime's tools cannot make it {precision}"):
        if precision == "float16":
            _to_half(source, target)
        else:
            _to_int8(source, target, calibration)


def simplify(path: Path) -> None:
    """Remove redundant nodes from a file with onnxslim, in place.

    Raises:
        UntraceableError: onnxslim fails.
        OSError: the file cannot be written.
    """
    import onnx
    import onnxslim

    with _explained("onnxslim cannot simplify it"):
        model = onnx.load(path)
        inputs = list(model.graph.input)
        slim = onnxslim.slim(model)
        del slim.graph.input[:]
        slim.graph.input.extend(inputs)  # also those that no output depends on: callers give them
        onnx.save(slim, path)


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    """Silence a tool, and turn whatever it raises into an UntraceableError that begins with ``failure``."""
    try:
        with quiet_exporter():
            yield
    except OSError:
        raise  # the disk is full, for example
    except Exception as error:
        raise UntraceableError(f"{failure}: {first_line(error)}") from error


def _to_half(source: Path, target: Path) -> None:
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = onnx.load(source)
    del whole.graph.value_info[:]  # its type would be wrong for a Resize, which stays float32
    half = onnx_ir.from_proto(convert_float_to_float16(whole, keep_io_types=True))
    half.graph.sort()  # the converter appends the casts of the input
    onnx_ir.save(half, target)


def _to_int8(source: Path, target: Path, calibration: Sequence[Inputs]) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        onnx.load(source),  # given a path, it writes another file beside it, and ignores a full disk
        target,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,  # without VNNI, processors add two products in 16 bits, which 8-bit weights overflow
    )


class _Reader:
    """Calibration batches through the interface that onnxruntime wants: one batch per call, then None; and a rewind."""

    def __init__(self, batches: Sequence[Inputs]) -> None:
        self._batches = batches
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rest, None)

    def rewind(self) -> None:
        self._rest: Iterator[dict[str, Any]] = iter([as_arrays(batch) for batch in self._batches])
