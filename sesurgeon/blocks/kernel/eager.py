"""Whether operations are merely computed, or somebody looks at them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook


def is_plain_training(x: Tensor) -> bool:
    """Whether an operation on ``x`` is computed at once, for its result and its gradients alone.

    Where nothing is to be differentiated, and where somebody looks at the operations themselves (compilers,
    exporters, tracers, ``torch.func``, forward-mode differentiation), a block is the plain operations.
    """
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and x.layout == torch.strided
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not is_transformed()
        and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


def is_transformed() -> bool:
    """Whether ``torch.func`` or ``vmap`` is at work: tensors hide dimensions, and cannot be written to."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def is_batch_of_gradients(grad: Tensor) -> bool:
    """Whether autograd hands over many at a time (``is_grads_batched``), for which torch knows but a few operations."""
    many: bool = torch._C._functorch.is_legacy_batchedtensor(grad)
    return many


def autocast_now(device: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """What brings back the autocast of this moment, for what operations on that kind of device are run again."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    cached = torch.is_autocast_cache_enabled()
    return partial(torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cached)


def is_itself(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what one of these types does and nothing else.

    It is no subclass, has no hooks and no ``forward`` of its own (as accelerate gives one), and there are no hooks on
    all modules.
    """
    if type(module) not in types or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not _has_any_global_hook()  # type: ignore[no-untyped-call]
