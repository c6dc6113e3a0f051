"""Whether operations are merely computed, or somebody looks at them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


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
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
    )


def is_itself(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what one of these types does and nothing else: no subclass, and no hooks."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in types and not any(hooks)
