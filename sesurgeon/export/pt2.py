"""A torch.export file with a free batch size: a graph without the code that made it."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from sesurgeon import __version__
from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.export.capture import capture, left_out, names_of, outputs_of, quiet_exporter, shapes_of
from sesurgeon.export.parity import Parity, compare_all, trial_images
from sesurgeon.export.precision import TOLERANCES
from sesurgeon.export.prepare import prepare
from sesurgeon.files import atomic_write, check_writable
from sesurgeon.models.provenance import Provenance
from sesurgeon.words import first_line

SUFFIX = ".pt2"  # torch.export.load refuses others

_METADATA = "sesurgeon.json"


@dataclass(frozen=True)
class Pt2Report:
    """What was written.

    Attributes:
        path: the file.
        input_shape: (channels, height, width) of the images; their batch is free.
        outputs: the shape of each of its outputs for one image, by name; the file gives several as a tuple.
        left_out: the network's other outputs, by key or number, which the file does not have.
        size: bytes on disk.
        parity: how far the file, read again, is from PyTorch's module; None when that was not asked for.
    """

    path: Path
    input_shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    size: int
    parity: Parity | None


def export_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    all_outputs: bool = False,
    force: bool = True,
    verify: bool = True,
) -> Pt2Report:
    """Write ``model`` in eval mode, in float32, for ``torch.export.load``: it runs without sesurgeon, and without timm.

    ``torch.export.load(path, extra_files={"sesurgeon.json": ""})`` fills in classes and preprocessing as JSON.
    ``model`` itself is left as it is: a copy is exported, with its gates' factors folded where that is exact.

    Args:
        model: any network with one image tensor in; of several outputs the first is exported by default.
        path: where to, a name that ends in .pt2; nothing lies there unless all checks have passed.
        example_inputs: images, as the model takes them; by default :func:`sesurgeon.surgery.known_inputs`.
        all_outputs: export all outputs that are tensors with a batch, as a tuple.
        force: replace what lies at ``path``.
        verify: read the file again and compare with PyTorch, at batch 1 and 4.

    Raises:
        OutputError: ``path`` cannot be written.
        UsageError: another suffix, or ``example_inputs`` are more than one tensor.
        UntraceableError: the network cannot be exported, or works for one batch size alone.
        VerificationError: the file, or the folded network, does not compute what the model computes.
    """
    path = Path(path)
    check_pt2_path(path)
    check_writable(path, force=force)
    prepared, image, provenance = prepare(model, example_inputs, every_output=all_outputs)
    program = capture(prepared, image)
    with atomic_write(path, force=force) as temporary:
        temporary.write_bytes(_content(program, provenance, names_of(prepared)))
        parity = _parity(prepared, temporary, image, provenance) if verify else None
    return Pt2Report(
        path=path,
        input_shape=tuple(image.shape[1:]),
        outputs=shapes_of(prepared, image),
        left_out=left_out(prepared),
        size=path.stat().st_size,
        parity=parity,
    )


def check_pt2_path(path: Path) -> None:
    """Raise a UsageError for a name that ``torch.export.load`` would refuse."""
    if path.suffix != SUFFIX:
        raise UsageError(f"{path} is no name for a torch.export file.", hint=f"Let it end in {SUFFIX}.")


def _content(program: ExportedProgram, provenance: Provenance, outputs: tuple[str, ...]) -> bytes:
    """The file, by way of memory: where the disk is full, torch's own writing to it ends the whole process."""
    content = io.BytesIO()
    _forget_sources(program)
    with quiet_exporter():
        torch.export.save(program, content, extra_files={_METADATA: json.dumps(_described(provenance, outputs))})
    return content.getvalue()


def _forget_sources(program: ExportedProgram) -> None:
    """Take out where the code lies on this machine, of which torch writes a line for each call."""
    for module in program.graph_module.modules():  # those of control flow, too
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _described(provenance: Provenance, outputs: tuple[str, ...]) -> dict[str, object]:
    preprocessing = provenance.preprocessing
    return {
        "sesurgeon_version": __version__,
        "outputs": outputs,
        "classes": provenance.classes,
        "multi_label": provenance.multi_label,
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
    }


def _parity(model: nn.Module, path: Path, image: Tensor, provenance: Provenance) -> Parity:
    batches = trial_images(model, image, provenance.preprocessing)
    try:
        with quiet_exporter():
            read = torch.export.load(path).module()
        with torch.no_grad():
            got = [outputs_of(read, batch) for batch in batches]
    except Exception as error:  # torch.export's errors share no narrower base class
        raise VerificationError(f"The exported file cannot be run: {first_line(error)}") from error
    parity = compare_all([outputs_of(model, batch) for batch in batches], got, TOLERANCES["float32"])
    parity.require("The file's")
    return parity
