"""Ship a model: a file, and the proof that it computes what PyTorch computes."""

from sesurgeon.export.onnx import OnnxReport, export_onnx
from sesurgeon.export.onnx_model import OnnxModel, load_onnx
from sesurgeon.export.parity import Parity

__all__ = ["OnnxModel", "OnnxReport", "Parity", "export_onnx", "load_onnx"]
