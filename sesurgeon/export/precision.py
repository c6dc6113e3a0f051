"""An ONNX file of float32 in fewer bits, by onnxruntime's own tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sesurgeon.errors import UntraceableError
from sesurgeon.export.capture import quiet_exporter
from sesurgeon.words import first_line

Precision = Literal["float32", "float16", "int8"]

TOLERANCES: dict[Precision, float] = {
    "float32": 1e-4,  # two runtimes add up the same products in another order: 1e-7 to 1e-5 of the logits
    "float16": 2e-2,  # 11 bits, rounded layer by layer: 4e-4 (ResNet-18) to 3e-3 (MobileNetV2)
    "int8": float("inf"),  # how much is too much depends on the use: what is reported is how many labels stay
}
"""The largest difference to PyTorch that passes, over the outputs' spread. A wrong operator shows from 1e-3 on."""


def reduce(source: Path, target: Path, precision: Precision, calibration: Sequence[Tensor]) -> None:
    """Write the float32 file at ``source`` to ``target`` in another precision; inputs and outputs stay float32.

    Args:
        source: an ONNX file whose input is ``input``.
        target: where to.
        precision: "float16": all weights and operations; "int8": static quantisation in QDQ form, symmetric for weights
            (one scale a channel, of 7 bits, so that no processor's sums overflow), asymmetric for activations.
        calibration: for "int8": batches of images (N, C, H, W), float32, from which activations get their ranges.

    Raises:
        UntraceableError: onnxruntime's tools cannot do it.
        OSError: a file cannot be written.
    """
    try:
        with quiet_exporter():
            if precision == "float16":
                _to_half(source, target)
            else:
                _to_int8(source, target, calibration)
    except OSError:
        raise  # the disk is full, or whatever else it is that the system says
    except Exception as error:  # onnxruntime's tools raise anything
        raise UntraceableError(f"onnxruntime's tools cannot make it {precision}: {first_line(error)}") from error


def simplify(path: Path) -> None:
    """Let onnxslim take out of a file whatever need not be there, in place.

    Raises:
        UntraceableError: it cannot.
        OSError: the file cannot be written.
    """
    import onnx
    import onnxslim

    try:
        with quiet_exporter():
            onnx.save(onnxslim.slim(onnx.load(path)), path)
    except OSError:
        raise
    except Exception as error:  # both as above
        raise UntraceableError(f"onnxslim cannot simplify it: {first_line(error)}") from error


def _to_half(source: Path, target: Path) -> None:
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = onnx.load(source)
    del whole.graph.value_info[:]  # of a resizing, which stays float32, it would say another type
    half = onnx_ir.from_proto(convert_float_to_float16(whole, keep_io_types=True))
    half.graph.sort()  # the casts of the input stand at the end
    onnx_ir.save(half, target)


def _to_int8(source: Path, target: Path, calibration: Sequence[Tensor]) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        onnx.load(source),  # of a path, it writes another file beside it, and does not notice a full disk
        target,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,  # processors without VNNI add two products in 16 bits, which those of 8 bits overflow
    )


class _Reader:
    """Calibration images, as onnxruntime asks for them: one batch a call, None at the end, and from the start again."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = batches
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rest, None)

    def rewind(self) -> None:
        self._rest: Iterator[dict[str, Any]] = iter([{"input": batch.numpy()} for batch in self._batches])
