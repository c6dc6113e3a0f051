"""Ship a model: a file, and the proof that it computes what PyTorch computes."""

from sesurgeon.export.latency import LatencyRatio, measure_latency
from sesurgeon.export.onnx import OnnxReport, export_onnx
from sesurgeon.export.onnx_model import OnnxModel, load_onnx
from sesurgeon.export.parity import Parity
from sesurgeon.export.plain import PlainReport, check_plain_path, export_plain

__all__ = [
    "LatencyRatio",
    "OnnxModel",
    "OnnxReport",
    "Parity",
    "PlainReport",
    "check_plain_path",
    "export_onnx",
    "export_plain",
    "load_onnx",
    "measure_latency",
]
