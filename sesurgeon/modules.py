"""Which modules do no more than their class says."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_itself(module: nn.Module, *types: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what one of these types does and nothing else.

    It is of no subclass, has no hooks and no ``forward`` of its own (as accelerate gives one), and no hooks are
    registered for all modules.
    """
    if type(module) not in types or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not _has_any_global_hook()  # type: ignore[no-untyped-call]
