"""Networks whose weights are not here: they cannot be run, or not copied."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from sesurgeon.errors import UsageError


def refuse_absent_weights(model: nn.Module) -> None:
    """Refuse a model on the meta device, or with parameters that are spread over processes.

    Raises:
        UsageError: it is one; or ``torch.device("meta")`` is the device of all that is made now.
    """
    if torch.get_default_device().type == "meta":
        raise UsageError(
            'Under torch.device("meta") nothing can be computed.',
            hint="sesurgeon runs the network: call it outside of that.",
        )
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{type(model).__name__} has no weights: {name} is on the meta device.",
                hint="sesurgeon runs the network: load its weights first, as by "
                "model.to_empty(device=…) and model.load_state_dict(…).",
            )
    refuse_sharded_weights(model)


def refuse_sharded_weights(model: nn.Module) -> None:
    """Refuse a model with parameters that are spread over processes, as ``fully_shard`` leaves them.

    Raises:
        UsageError: it is one.
    """
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "DTensor":  # whose import takes a second
            raise UsageError(
                f"{type(model).__name__} is sharded: {name} is spread over processes.",
                hint="Insert blocks before fully_shard. Afterwards, gather its state dict "
                "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True) and load it "
                "into a network that is not sharded.",
            )
