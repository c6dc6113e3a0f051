"""Weights in the memory of a state dict's tensors: nothing is copied, and they are in memory once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


def adopt(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let the parameters and buffers of ``model`` take over the memory of the tensors of the same names in ``state``.

    They stay the same objects, so that what is tied stays tied; ``Module.to`` moves them in the same way.

    Returns:
        What is left for ``load_state_dict``: tensors of another dtype or memory format, or that share memory with
        others, in the state dict or in the model; extra state; and all of a module that has its own way of loading.
    """
    left = dict(state)
    own = dict(_weights(model))
    alone = _alone_in_memory(set(own.values())) | _alone_in_memory(filter(_is_plain, state.values()))
    for name, tensor in own.items():
        given = state.get(name)
        if given is not None and {id(tensor), id(given)} <= alone and _looks(tensor) == _looks(given):
            tensor.data = given.detach()
            del left[name]
    return left


def _weights(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers in the order in which they load, those of tied modules under all their names."""
    if not _loads_as_usual(model):
        return
    for name, tensor in (*model._parameters.items(), *model._buffers.items()):
        if tensor is not None and _is_plain(tensor):
            yield f"{prefix}{name}", tensor
    for name, child in model._modules.items():
        if child is not None:
            yield from _weights(child, f"{prefix}{name}.")


def _loads_as_usual(module: nn.Module) -> bool:
    """Whether ``load_state_dict`` only copies, here and on the way to the modules below."""
    kind = type(module)
    hooked = module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks
    usual = kind._load_from_state_dict.__module__.startswith("torch.nn.modules.")
    return usual and not hooked and kind.load_state_dict is nn.Module.load_state_dict


def _is_plain(value: Tensor) -> bool:
    """Whether it is a dense tensor of no other class; extra state need not be a tensor at all."""
    return type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided


def _alone_in_memory(tensors: Iterable[Tensor]) -> set[int]:
    """Ids of those that fill a memory of their own: a write to one that shares it would reach others."""
    storages = {id(tensor): (tensor.untyped_storage(), tensor.nbytes) for tensor in tensors}
    users = Counter(storage.data_ptr() for storage, _ in storages.values())
    return {
        key
        for key, (storage, size) in storages.items()
        if users[storage.data_ptr()] == 1 and 0 < size == storage.nbytes()
    }


def _looks(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()
