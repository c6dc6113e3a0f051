"""The part of a network outside of inserted blocks and heads, and whether two networks have the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.models import heads_if_any
from sesurgeon.paths import is_within_any
from sesurgeon.surgery.rewrite import blocks_of


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of weights and buffers. Compares the base of an adapter with a network; kept in adapters.

    Attributes:
        whole: of all of them, with their names, types and shapes.
        parts: of those below each first name in their paths (a child of the network, or a tensor of its own).
    """

    whole: str
    parts: Mapping[str, str]

    def differences(self, other: Fingerprint) -> list[str]:
        """Names of the parts that differ in ``other``, which is of the same architecture."""
        return [part for part in self.parts if self.parts[part] != other.parts.get(part)]


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``model`` that belong to its task: of inserted blocks and of heads, by their names."""
    paths = _own_paths(model)
    return {name: tensor for name, tensor in _tensors(model).items() if is_within_any(name, paths)}


def fingerprint_of(model: nn.Module) -> Fingerprint:
    """The fingerprint of a network's backbone: of all weights and buffers outside of inserted blocks and heads."""
    paths, whole, parts = _own_paths(model), hashlib.sha256(), dict[str, "hashlib._Hash"]()
    for name, tensor in _tensors(model).items():
        if is_within_any(name, paths):
            continue
        part = parts.setdefault(name.partition(".")[0], hashlib.sha256())
        for piece in _pieces(name, tensor):
            whole.update(piece)
            part.update(piece)
    return Fingerprint(whole.hexdigest(), {name: part.hexdigest()[:16] for name, part in parts.items()})


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors, with their names, types and shapes, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        for piece in _pieces(name, tensor):
            found.update(piece)
    return found.hexdigest()


def changed_tensors(model: nn.Module, other: nn.Module) -> list[str]:
    """Names of the backbone's weights and buffers that differ in any bit between two networks of one architecture."""
    paths, theirs = _own_paths(model), _tensors(other)
    mine = {name: tensor for name, tensor in _tensors(model).items() if not is_within_any(name, paths)}
    return [
        name
        for name, tensor in mine.items()
        if tensor.dtype != theirs[name].dtype or _bytes(tensor) != _bytes(theirs[name])
    ]


def is_batchnorm_statistic(name: str) -> bool:
    """Whether a tensor of that name is what a BatchNorm counts in train mode, frozen or not."""
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


def _own_paths(model: nn.Module) -> tuple[str, ...]:
    return (*blocks_of(model), *heads_if_any(model))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _pieces(name: str, tensor: Tensor) -> tuple[bytes, bytes]:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), _bytes(tensor)


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return found
