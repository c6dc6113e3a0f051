"""Parameters and buffers that several modules have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

Ties = Sequence[Sequence[str]]
"""Names of one and the same tensor, as a state dict has them; those with one name alone are left out."""


def ties_of(model: nn.Module) -> Ties:
    """Which names of ``model`` are tied."""
    names = defaultdict(list)
    for name, tensor in _named_tensors(model):
        names[id(tensor)].append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def tie(model: nn.Module, ties: Ties) -> None:
    """Give all names that are tied the tensor of the first of them, as ``load_state_dict(assign=True)`` unties them."""
    tensors = dict(_named_tensors(model))
    for first, *others in ties:
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, tensors[first])


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
