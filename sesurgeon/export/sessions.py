"""An ONNX file in onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sesurgeon.export.inputs import Inputs


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """Open an ``onnxruntime.InferenceSession`` that raises errors but logs nothing.

    Args:
        path: the file; it is not needed after this.
        threads: to compute with; they do not spin between two runs, so that others can use the cores. None leaves both
            to onnxruntime: one thread per core, and they spin.

    Raises:
        Exception: onnxruntime cannot read the file; its errors share no narrower base class.
    """
    import onnxruntime  # slow to import, and only needed for ONNX files

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as well
    if threads is not None:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def as_arrays(inputs: Inputs) -> dict[str, Any]:
    """Tensors on the CPU as what a session takes."""
    return {name: value.numpy() for name, value in inputs.items()}
