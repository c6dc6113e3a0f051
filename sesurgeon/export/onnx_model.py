"""An exported ONNX file, called like the module that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import UnreadableFileError
from sesurgeon.export.onnx_metadata import read_metadata
from sesurgeon.export.sessions import open_session
from sesurgeon.files import StrPath
from sesurgeon.models.provenance import attach_provenance
from sesurgeon.words import first_line


class OnnxModel(nn.Module):
    """A network in onnxruntime, on the CPU, with the interface of the module that it came from.

    Args:
        session: an onnxruntime session with one input and at least one output.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        self.input = session.get_inputs()[0].name
        self.output = session.get_outputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (batch, channels, height, width), float32 -> the first output, (batch, classes).

        Raises:
            ValueError: the file does not take these images.
        """
        try:
            (logits,) = self.session.run([self.output], {self.input: images.numpy()})
        except Exception as error:  # onnxruntime's errors share no narrower base class
            raise ValueError(first_line(error)) from error
        return torch.from_numpy(logits)


def load_onnx(path: StrPath) -> OnnxModel:
    """Load a file that :func:`sesurgeon.export_onnx` wrote, with its metadata.

    If it has no preprocessing (the exported model had none), images are prepared as for any model without one: at the
    file's own input size, with the usual mean and standard deviation.

    Raises:
        UnreadableFileError: the file is missing or damaged, or takes something else than one batch of images.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableFileError(f"The file {path} does not exist or is no file.")
    try:
        session = open_session(path)
    except Exception as error:  # onnxruntime's errors share no narrower base class
        raise UnreadableFileError(f"onnxruntime cannot read {path}: {first_line(error)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        described = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
        raise UnreadableFileError(f"{path} takes {described}; a classifier takes one batch of float32 images.")
    try:
        provenance = read_metadata(session.get_modelmeta().custom_metadata_map, inputs[0].shape)
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"The metadata of {path} are damaged: {error!r}.") from error
    model = OnnxModel(session)
    attach_provenance(model, provenance)
    return model.eval()
