"""What an ONNX file says of the network in it: classes, preprocessing, and what a run held out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sesurgeon.models.preprocessing import Preprocessing, default_preprocessing
from sesurgeon.models.provenance import Provenance, digest_of
from sesurgeon.models.sources.source import Source
from sesurgeon.version import __version__


def write_metadata(model: Any, provenance: Provenance) -> None:
    """Put our metadata into an ``onnx_ir.Model``, and remove the paths of source files on this machine."""
    model.metadata_props["sesurgeon_version"] = __version__
    if provenance.classes is not None:
        model.metadata_props["classes"] = json.dumps(provenance.classes)
    if provenance.multi_label:
        model.metadata_props["multi_label"] = "true"
    if provenance.preprocessing is not None:
        model.metadata_props["preprocessing"] = json.dumps(provenance.preprocessing.to_dict())
    if held_out := list(_held_out(provenance)):
        model.metadata_props["held_out"] = json.dumps(held_out)
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def read_metadata(metadata: Mapping[str, str], shape: list[Any]) -> Provenance:
    """Read what :func:`write_metadata` wrote.

    Args:
        metadata: of the file.
        shape: of its input: (batch, channels, height, width); a string or None stands for a dynamic size.

    Returns:
        Without preprocessing in the metadata, the default for the input size; None if that is dynamic.

    Raises:
        KeyError, TypeError, ValueError: the metadata are damaged.
    """
    classes = json.loads(metadata["classes"]) if "classes" in metadata else None
    return Provenance(
        Source("module"),
        None if classes is None else tuple(map(str, classes)),
        preprocessing=_preprocessing(metadata, shape),
        history=tuple({"command": "finetune", **dict(run)} for run in json.loads(metadata.get("held_out", "[]"))),
        multi_label=metadata.get("multi_label") == "true",
    )


def _held_out(provenance: Provenance) -> Iterator[dict[str, Any]]:
    """What runs held out of their data, so that the file is not evaluated on images that it was trained on."""
    for record in provenance.history:
        if record.get("command") == "finetune" and record.get("val_split") is not None:
            about = {key: record[key] for key in ("val_split", "seed", "val_images", "val_digest") if key in record}
            yield {"data": digest_of(record["data"]), **about}


def _preprocessing(metadata: Mapping[str, str], shape: list[Any]) -> Preprocessing | None:
    if "preprocessing" in metadata:
        return Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    channels, height, width = shape[1:]
    fixed = all(isinstance(size, int) for size in (channels, height, width))
    return default_preprocessing(channels, height, width) if fixed else None
