"""Modules that carry methods or hooks of their own.

A module's state can put any allowed object in the place of a method (``forward``), or hang it up as a hook.
No model of torchvision or timm that can be pickled does so; in a file that nobody vouches for it is a way to
have things called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

# nn.Module calls what lies in these, though its class has no method of the name
_CALLED = ("_hooks", "_compiled_call_impl")


def overrides(content: object) -> list[str]:
    """``Class.attribute`` of each method that a module in ``content`` overrides and each hook list in use.

    Modules are looked for in containers and in attributes, at any depth.
    """
    return sorted(
        {
            f"{type(module).__name__}.{name}"
            for module in _objects(content)
            if isinstance(module, nn.Module)
            for name, value in vars(module).items()
            if callable(getattr(type(module), str(name), None)) or (str(name).endswith(_CALLED) and value)
        }
    )


def _objects(content: object) -> Iterator[object]:
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (torch.Tensor, type, str)):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)
        waiting.extend(getattr(item, "__dict__", {}).values())
