"""Networks that cannot be run, copied or given blocks as they are: refused, with what to give instead."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sesurgeon.errors import UsageError
from sesurgeon.models.files.quantised import is_quantised


def refuse_unfit(model: nn.Module) -> None:
    """Refuse a network that is not a plain float one with all of its weights in this process.

    Raises:
        UsageError: it is wrapped, compiled, TorchScript, quantised or sharded, or some of its parameters have no shape
            or no values yet; or ``torch.device("meta")`` is the device of all that is made now.
    """
    _refuse_wrapped(model)
    _refuse_quantised(model)
    _refuse_lazy(model)
    _refuse_meta(model)
    refuse_sharded(model)


def refuse_sharded(model: nn.Module) -> None:
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


def _refuse_wrapped(model: nn.Module) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UsageError(
            f"The model is wrapped in {type(model).__name__}.", hint="Give the network itself: model.module."
        )
    if "_orig_mod" in model._modules:  # OptimizedModule, whose import takes a second
        raise UsageError(
            "The model is compiled by torch.compile.",
            hint="Give the network itself, model._orig_mod, and compile the result.",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "The model is TorchScript: compiled code, with no Python modules to edit.",
            hint="Give the module that was compiled.",
        )


def _refuse_quantised(model: nn.Module) -> None:
    """Also a model that is prepared for quantisation."""
    for path, layer in model.named_modules():
        if is_quantised(f"{type(layer).__module__}.{type(layer).__name__}"):
            raise UsageError(
                f"{type(model).__name__} is quantised or made for it ({path or 'it'} is a {type(layer).__name__} of "
                f"{type(layer).__module__}), which sesurgeon does not follow.",
                hint="Give the float model without such parts, and quantise the result afterwards.",
            )


def _refuse_lazy(model: nn.Module) -> None:
    """The first forward pass gives lazy layers their weights, and another class."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise UsageError(
                f"{type(model).__name__} is not initialised yet: {name} gets its shape in the first forward pass.",
                hint="Run it once first, on inputs of the right shape: model(images).",
            )


def _refuse_meta(model: nn.Module) -> None:
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
