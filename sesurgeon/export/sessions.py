"""An ONNX file in onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession``, which keeps its complaints to the errors that it raises.

    Args:
        path: the file; it is not needed after this.
        threads: to compute with, which rest between two runs so that others can have the cores; None leaves both to
            onnxruntime: a thread for each core, and none rests.

    Raises:
        Exception: onnxruntime cannot read the file; its errors share no narrower base class.
    """
    import onnxruntime  # no file but ONNX needs it, and it takes a while

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    if threads is not None:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
