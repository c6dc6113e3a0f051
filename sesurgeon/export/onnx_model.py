"""An ONNX file that runs as a model does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import UnreadableFileError
from sesurgeon.export.sessions import open_session
from sesurgeon.finetune.data.transforms import default_preprocessing
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.words import first_line


class OnnxModel(nn.Module):
    """A network in onnxruntime, on the CPU, that is called as the module was that it came from.

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
            ValueError: the file takes no such images.
        """
        try:
            (logits,) = self.session.run([self.output], {self.input: images.numpy()})
        except Exception as error:  # onnxruntime's errors share no narrower base class
            raise ValueError(first_line(error)) from error
        return torch.from_numpy(logits)


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Read a file that :func:`sesurgeon.export_onnx` wrote, with what its metadata say.

    Without preprocessing there (the exported model had none) the file's own input size and the usual mean and
    deviation are taken, as for a model that says nothing.

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
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        classes, preprocessing = _classes(metadata), _preprocessing(metadata, inputs[0].shape)
        runs = _runs(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"The metadata of {path} are damaged: {error!r}.") from error
    model = OnnxModel(session)
    several = metadata.get("multi_label") == "true"
    provenance = Provenance(Source("module"), classes, preprocessing=preprocessing, history=runs, multi_label=several)
    attach_provenance(model, provenance)
    return model.eval()


def _classes(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    return tuple(str(name) for name in json.loads(metadata["classes"])) if "classes" in metadata else None


def _runs(metadata: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """The history, as far as it tells what was held out."""
    return tuple({"command": "finetune", **dict(run)} for run in json.loads(metadata.get("held_out", "[]")))


def _preprocessing(metadata: Mapping[str, str], shape: list[Any]) -> Preprocessing | None:
    """What the metadata say; else a default for the file's input; None where its size is free."""
    if "preprocessing" in metadata:
        return Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    channels, height, width = shape[1:]
    fixed = all(isinstance(size, int) for size in (channels, height, width))
    return default_preprocessing(channels, height, width) if fixed else None
