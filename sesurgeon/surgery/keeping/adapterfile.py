"""The file of an adapter: tensors in safetensors, and in its metadata what they belong to. Nothing in it can be run.

The metadata has one entry, ``sesurgeon``, a document in JSON:

    {"format": 1, "version": …, "kind": "adapter", "plan": {…} or null, "provenance": {…}, "num_classes": …,
     "architecture": {"class": …, "fingerprint": …, "parts": {…}}, "weights": {"sha256": …, "parts": {…}},
     "tensors": {"sha256": …}}

``plan`` and ``provenance`` are as checkpoints have them; ``architecture`` and ``weights`` are those of the base without
its head, ``tensors`` those of the file. Hashes are over ``NAME DTYPE SHAPE`` and the bytes of each tensor, in the state
dict's order, and in that of the names for the file's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.files import StrPath, atomic_write
from sesurgeon.models import CHECKPOINT_KEY, Provenance, format_of
from sesurgeon.placement import Architecture, Plan, plan_from_data, plan_to_data
from sesurgeon.surgery.keeping.backbone import Fingerprint, digest_of_tensors
from sesurgeon.version import __version__

FORMAT = 1
SUFFIX = ".adapter.safetensors"


@dataclass(frozen=True, eq=False)
class Adapter:
    """What one task added to a network.

    Attributes:
        plan: where its blocks are; None where the head alone is its own.
        provenance: what its outputs mean, what images go through, and what was done to it.
        num_classes: outputs of its head; None where it has none.
        architecture: of the base.
        weights: of the base's backbone.
        tensors: of the blocks and the heads, by their names in the whole network's state dict.
        version: of the sesurgeon that wrote it.
    """

    plan: Plan | None
    provenance: Provenance
    num_classes: int | None
    architecture: Architecture
    weights: Fingerprint
    tensors: Mapping[str, Tensor] = field(repr=False)
    version: str = __version__

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def write_adapter(adapter: Adapter, path: StrPath, *, force: bool = True) -> None:
    """Write an adapter; whole or not at all.

    Args:
        adapter: what is written.
        path: of the file, by convention ``NAME.adapter.safetensors``.
        force: replace a file of that name.

    Raises:
        OutputError: it cannot be written; nothing was changed.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in adapter.tensors.items()}
    with atomic_write(Path(path), force=force) as temporary:
        save_file(tensors, temporary, {CHECKPOINT_KEY: json.dumps(_document(adapter), ensure_ascii=False)})


def read_adapter(path: StrPath) -> Adapter:
    """What :func:`write_adapter` wrote. Nothing is built or imported, and no code in it is run.

    Raises:
        UnreadableFileError: missing, torn, or no adapter.
    """
    path = Path(path)
    if format_of(path) != "safetensors":
        raise _no_adapter(path)
    metadata, tensors = _read(path)
    if CHECKPOINT_KEY not in metadata:
        raise _no_adapter(path)
    try:
        document = json.loads(metadata[CHECKPOINT_KEY])
        if document["format"] != FORMAT:
            raise UnreadableFileError(
                f"{path} is an adapter of format {document['format']}; this sesurgeon reads format {FORMAT}.",
                hint="Update sesurgeon.",
            )
        return _adapter(document, tensors, f"The plan in {path}")
    except UsageError as error:  # of the plan
        raise _damaged(path, error.message) from error
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(path, repr(error)) from error


def is_adapter(path: StrPath) -> bool:
    """Whether a file is an adapter by its looks; whatever cannot be read is none."""
    path = Path(path)
    try:
        return path.suffix == ".safetensors" and CHECKPOINT_KEY in _read(path, tensors=False)[0]
    except UnreadableFileError:
        return False


def _document(adapter: Adapter) -> dict[str, Any]:
    weights = adapter.weights
    return {
        "format": FORMAT,
        "version": adapter.version,
        "kind": "adapter",
        "plan": None if adapter.plan is None else plan_to_data(adapter.plan),
        "provenance": adapter.provenance.to_dict(),
        "num_classes": adapter.num_classes,
        "architecture": adapter.architecture.to_dict(),
        "weights": {"sha256": weights.whole, "parts": dict(weights.parts)},
        "tensors": {"sha256": digest_of_tensors(adapter.tensors)},
    }


def _adapter(document: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: str) -> Adapter:
    _check_types(document)
    if document["tensors"]["sha256"] != digest_of_tensors(tensors):
        raise ValueError("its tensors are not those that were written")
    weights = document["weights"]
    return Adapter(
        plan=None if document["plan"] is None else plan_from_data(document["plan"], origin=origin),
        provenance=Provenance.from_dict(document["provenance"]),
        num_classes=document["num_classes"],
        architecture=Architecture.from_dict(document["architecture"]),
        weights=Fingerprint(str(weights["sha256"]), dict(weights["parts"])),
        tensors=tensors,
        version=document["version"],
    )


def _check_types(document: Mapping[str, Any]) -> None:
    """Refuse what would pass for something else, such as a text for a list of names."""
    outputs, classes, head = document["num_classes"], *(document["provenance"].get(key) for key in ("classes", "head"))
    if document["kind"] != "adapter":
        raise ValueError("its kind is another")
    for name, value, kind in (
        ("version", document["version"], str),
        ("num_classes", outputs, int | None),
        ("classes", classes, list | None),
        ("head", head, str | None),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"its {name} is something else")
    if not all(isinstance(name, str) for name in classes or ()):
        raise TypeError("its classes are no names")
    if None not in (outputs, classes) and len(classes) != outputs:
        raise ValueError(f"it names {len(classes)} classes for {outputs} outputs")


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata of a file, and its tensors where they are wanted."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if tensors else ()
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error


def _no_adapter(path: Path) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path} is not an adapter.", hint="sesurgeon adapter extract writes one, as NAME.adapter.safetensors."
    )


def _damaged(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(f"{path} is damaged, or no adapter: {reason}", hint="Extract or copy it again.")
