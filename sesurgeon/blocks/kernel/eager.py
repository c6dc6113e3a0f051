"""Whether operations are merely computed, or something observes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_plain_training(x: Tensor) -> bool:
    """Whether an operation on ``x`` is computed at once, for its result and its gradients alone.

    Where nothing is to be differentiated, and where something observes the operations themselves (compilers,
    exporters, tracers, ``torch.func``, forward-mode differentiation), a block runs its plain operations.
    """
    return torch.is_grad_enabled() and is_plain(x)


def is_plain(x: Tensor) -> bool:
    """Whether operations on ``x`` are computed at once, and unobserved as they are, see :func:`is_plain_training`."""
    return (
        type(x) is Tensor
        and x.layout == torch.strided
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not is_transformed()
        and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


def keeps_tensors_as_they_are() -> bool:
    """Whether autograd keeps tensors for the backward pass itself, and no hooks keep something in their place.

    Checkpointing and ``save_on_cpu`` have such hooks: to read what was kept would compute or copy it anew.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is None


def calls_are_seen() -> bool:
    """Whether something sees what operations or modules give, and may keep that, with its history.

    A ``TorchFunctionMode``, or a tracer or recorder that replaced ``nn.Module.__call__``.
    """
    return torch._C._len_torch_function_stack() > 0 or nn.Module.__call__ is not nn.Module._wrapped_call_impl


def results_are_seen() -> bool:
    """Whether a ``TorchDispatchMode`` sees the results of operations, without history, and may keep them."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_transformed() -> bool:
    """Whether ``torch.func`` or ``vmap`` is active: tensors hide dimensions, and cannot be written to."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def is_batch_of_gradients(grad: Tensor) -> bool:
    """Whether ``grad`` is a batch of gradients (``is_grads_batched``), on which torch has only a few operations."""
    many: bool = torch._C._functorch.is_legacy_batchedtensor(grad)
    return many


def autocast_now(device: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A factory of contexts that restore the present autocast, for operations on that device that run again later."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    cached = torch.is_autocast_cache_enabled()
    return partial(torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cached)
