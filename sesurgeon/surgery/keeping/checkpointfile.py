"""Our own file, as plain data: where the model came from, the plan, the weights.

A checkpoint is a ``torch.save`` of plain data and tensors, readable with ``weights_only=True``:

    {"sesurgeon": {"format": 1, "provenance": {…}, "plan": {…} or None},
     "state_dict": {…},
     "module": the original network without blocks, only where no name can rebuild it}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.files import check_writable
from sesurgeon.models import CHECKPOINT_KEY, Provenance
from sesurgeon.placement import Plan, plan_from_data, plan_to_data

FORMAT = 1
_OTHERS = (".safetensors", ".onnx", ".pt2")  # what a reader would take a checkpoint of that name for


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        provenance: where the network came from.
        plan: of its blocks; None for a plain network.
        weights: its state dict, the blocks' included.
        module: the network without blocks, where its source cannot rebuild it.
    """

    provenance: Provenance
    plan: Plan | None
    weights: Mapping[str, Any]
    module: nn.Module | None = None


def check_checkpoint_path(path: Path, *, force: bool = False) -> None:
    """Refuse a name for a checkpoint, before any work is done for it.

    Raises:
        UsageError: it says that the file is of another format.
        OutputError: it cannot be written, see :func:`sesurgeon.files.check_writable`.
    """
    if path.suffix.lower() in _OTHERS:
        raise UsageError(
            f"{path} cannot be the name of a checkpoint, which is not a {path.suffix} file but one of torch.save.",
            hint="Let its name end in .pt; sesurgeon export --plain writes .safetensors.",
        )
    check_writable(path, force=force)


def to_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """What ``torch.save`` writes."""
    plan = checkpoint.plan
    header = {
        "format": FORMAT,
        "provenance": checkpoint.provenance.to_dict(),
        "plan": None if plan is None else plan_to_data(plan),
    }
    content: dict[str, Any] = {CHECKPOINT_KEY: header, "state_dict": checkpoint.weights}
    return content if checkpoint.module is None else {**content, "module": checkpoint.module}


def from_content(content: Mapping[str, Any], origin: str) -> Checkpoint:
    """The inverse. Nothing is built or imported.

    Raises:
        UnreadableFileError: of another format, or damaged; the message names ``origin``.
    """
    try:
        header, weights, module = content[CHECKPOINT_KEY], content["state_dict"], content.get("module")
        if header["format"] != FORMAT:
            raise UnreadableFileError(
                f"{origin} is a checkpoint of format {header['format']}; this sesurgeon reads format {FORMAT}.",
                hint="Update sesurgeon.",
            )
        of_weights = isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
        if not of_weights or not isinstance(module, nn.Module | None):
            raise TypeError("its weights or its module are something else")
        plan = header["plan"]
        return Checkpoint(
            Provenance.from_dict(header["provenance"]),
            None if plan is None else plan_from_data(plan, origin=f"The plan in {origin}"),
            weights,
            module,
        )
    except UsageError as error:  # of the plan
        raise _damaged(origin, error.message) from error
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(origin, repr(error)) from error


def _damaged(origin: str, reason: str) -> UnreadableFileError:
    return UnreadableFileError(f"{origin} is a damaged checkpoint: {reason}", hint="Copy it again.")
