"""A network's weights with plain gates, as timm or any other code with a standard SE network loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.files import StrPath, atomic_write, check_writable
from sesurgeon.surgery import Folding, fold

_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class PlainReport:
    """What was written.

    Attributes:
        path: the file.
        tensors: how many are in it.
        size: bytes on disk.
        folding: which blocks were folded, and which were left; if any was left, this is not a standard network.
    """

    path: Path
    tensors: int
    size: int
    folding: Folding


def export_plain(model: nn.Module, path: StrPath, *, force: bool = True) -> PlainReport:
    """Fold the gates of ``model`` and write its state dict: plain tensors on the CPU, under the same keys.

    Args:
        model: from :func:`sesurgeon.add_se` or :func:`sesurgeon.load`; it stays as it is.
        path: a name that ends in .pth, .pt (both for ``torch.load``) or .safetensors, which has no place for the
            versions of modules.
        force: replace an existing file.

    Raises:
        UsageError: another suffix, or something in the state dict is not a tensor.
        OutputError: ``path`` cannot be written.
        VerificationError: folding changed an output; nothing was written.
    """
    path = Path(path)
    check_plain_path(path)
    check_writable(path, force=force)
    _check_state(model)
    folding = fold(model)
    tensors = folding.model.state_dict()  # with the versions of its modules, which MNASNet and our blocks look at
    for name, value in tensors.items():  # safetensors wants contiguous tensors that share no memory
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    with atomic_write(path, force=force) as temporary:
        if path.suffix == ".safetensors":
            save_file(tensors, temporary, metadata={"format": "pt"})
        else:
            torch.save(tensors, temporary)
    return PlainReport(path, len(tensors), path.stat().st_size, folding)


def check_plain_path(path: Path) -> None:
    """Raise a UsageError for a suffix that names none of the formats."""
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"{path} does not say in which format to write the weights.",
            hint=f"Let its name end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}.",
        )


def _check_state(model: nn.Module) -> None:
    others = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise UsageError(
            f"The state dict of this {type(model).__name__} holds more than tensors: {', '.join(others)}.",
            hint="Use sesurgeon.save, which keeps the network as a whole.",
        )
