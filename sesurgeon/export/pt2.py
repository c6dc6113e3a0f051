"""A torch.export file with a dynamic batch size: a graph without the code that made it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.export.capture import capture, quiet_exporter
from sesurgeon.export.outputs import as_tuple
from sesurgeon.export.parity import Parity, compare_all
from sesurgeon.export.precision import TOLERANCES
from sesurgeon.export.prepare import prepare, shapes_of
from sesurgeon.export.trials import Trial, usual_trials
from sesurgeon.files import StrPath, atomic_write, check_writable
from sesurgeon.models.provenance import Provenance
from sesurgeon.version import __version__
from sesurgeon.words import first_line

SUFFIX = ".pt2"  # torch.export.load refuses others
_METADATA = "sesurgeon.json"


@dataclass(frozen=True)
class Pt2Report:
    """What was written.

    Attributes:
        path: the file.
        inputs: the shape of each input for one image, by name; batch sizes are dynamic.
        outputs: the same of each output; the file returns several as a tuple.
        left_out: the network's other outputs, by key or number, which the file does not have.
        size: bytes on disk.
        parity: how far the file, loaded again, is from the module; None without ``verify``.
    """

    path: Path
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    size: int
    parity: Parity | None


def export_pt2(
    model: nn.Module,
    path: StrPath,
    *,
    example_inputs: Tensor | tuple[Any, ...] | None = None,
    all_outputs: bool = False,
    force: bool = True,
    verify: bool = True,
) -> Pt2Report:
    """Write ``model`` in eval mode, in float32, for ``torch.export.load``: it runs without sesurgeon, and without timm.

    ``torch.export.load(path, extra_files={"sesurgeon.json": ""})`` fills in classes and preprocessing as JSON.
    ``model`` itself stays as it is: a copy is exported, with the factors of its gates folded where that is exact.

    Args:
        model: any network that takes tensors with a batch; if it has several outputs, the first is exported by default.
        path: a name that ends in .pt2; nothing is written there unless all checks pass.
        example_inputs: images, or a tuple of what forward takes; by default :func:`sesurgeon.surgery.known_inputs`.
        all_outputs: export all outputs that are tensors with a batch dimension, as a tuple.
        force: replace an existing file.
        verify: load the file again and compare it with the module, at batch sizes 1 and 4.

    Raises:
        OutputError: ``path`` cannot be written.
        UsageError: another suffix, or ``example_inputs`` are not tensors with a batch.
        UntraceableError: the network cannot be exported, or works for one batch size only.
        VerificationError: the file, or the folded network, does not compute what the model computes.
    """
    path = Path(path)
    check_pt2_path(path)
    check_writable(path, force=force)
    prepared = prepare(model, example_inputs, every_output=all_outputs)
    program = capture(prepared.network, prepared.inputs.values())
    with atomic_write(path, force=force) as temporary:
        temporary.write_bytes(_content(program, prepared.provenance, tuple(prepared.outputs)))
        parity = _parity(temporary, usual_trials(prepared)) if verify else None
    return Pt2Report(
        path=path,
        inputs=shapes_of(prepared.inputs),
        outputs=shapes_of(prepared.outputs),
        left_out=prepared.left_out,
        size=path.stat().st_size,
        parity=parity,
    )


def check_pt2_path(path: Path) -> None:
    """Raise a UsageError for a name that ``torch.export.load`` would refuse."""
    if path.suffix != SUFFIX:
        raise UsageError(f"{path} cannot be the name of a torch.export file.", hint=f"Let it end in {SUFFIX}.")


def _content(program: ExportedProgram, provenance: Provenance, outputs: tuple[str, ...]) -> bytes:
    """The bytes of the file; when torch writes to a full disk itself, that ends the whole process."""
    content = io.BytesIO()
    _forget_sources(program)
    with quiet_exporter():
        torch.export.save(program, content, extra_files={_METADATA: json.dumps(_described(provenance, outputs))})
    return content.getvalue()


def _forget_sources(program: ExportedProgram) -> None:
    """Remove the paths of source files on this machine, which torch writes for each call."""
    for module in program.graph_module.modules():  # includes those of control flow
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


def _parity(path: Path, trials: Sequence[Trial]) -> Parity:
    """Load the file again; it must compute what the module computed."""
    try:
        with quiet_exporter():
            loaded = torch.export.load(path).module()
        with torch.no_grad():
            got = [as_tuple(loaded(*trial.inputs.values())) for trial in trials]
    except Exception as error:  # torch.export's errors share no narrower base class
        raise VerificationError(f"The exported file cannot be run: {first_line(error)}") from error
    parity = compare_all([trial.outputs for trial in trials], got, TOLERANCES["float32"])
    parity.require("The file's")
    return parity
