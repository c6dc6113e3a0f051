"""Export a model to a file that provably computes what PyTorch computes, and measure what blocks cost."""

from sesurgeon.export.cost.budget import fit_latency
from sesurgeon.export.cost.latency import LatencyRatio, measure_latency
from sesurgeon.export.cost.memory import MemoryRatio, measure_memory
from sesurgeon.export.cost.placements import PlacementCost, draw_placements, measure_placements
from sesurgeon.export.cost.runtimes import Runtime
from sesurgeon.export.cost.shares import BlockShare, block_shares
from sesurgeon.export.onnx import OnnxReport, export_onnx
from sesurgeon.export.onnx_files import check_onnx_path
from sesurgeon.export.onnx_model import OnnxModel, load_onnx
from sesurgeon.export.parity import Parity
from sesurgeon.export.plain import PlainReport, check_plain_path, export_plain
from sesurgeon.export.precision import Precision
from sesurgeon.export.pt2 import Pt2Report, check_pt2_path, export_pt2

__all__ = [
    "BlockShare",
    "LatencyRatio",
    "MemoryRatio",
    "OnnxModel",
    "OnnxReport",
    "Parity",
    "PlacementCost",
    "PlainReport",
    "Precision",
    "Pt2Report",
    "Runtime",
    "block_shares",
    "check_onnx_path",
    "check_plain_path",
    "check_pt2_path",
    "draw_placements",
    "export_onnx",
    "export_plain",
    "export_pt2",
    "fit_latency",
    "load_onnx",
    "measure_latency",
    "measure_memory",
    "measure_placements",
]
