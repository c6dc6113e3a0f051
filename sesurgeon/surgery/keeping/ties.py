"""Parameters and buffers that several modules have in common."""

from __future__ import annotations

from torch import Tensor, nn


def tie(model: nn.Module) -> None:
    """Make tensors that share all their memory one: ``load_state_dict(assign=True)`` makes several of a tied one."""
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        found: dict[object, Tensor] = {}
        for name, tensor in list(named):
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and (first := found.setdefault(place, tensor)) is not tensor:
                path, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(path), attribute, first)
