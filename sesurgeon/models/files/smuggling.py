"""What a module in a file can bring along to have something called: methods, hooks and names.

A module's state can put any allowed object in the place of a method (``forward``) or among the hooks, and give a child
a name that ends a string in the code that torch.fx writes. No model of torchvision or timm that can be pickled does so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

# nn.Module calls what lies in these, though its class has no method of the name
_CALLED = ("_hooks", "_compiled_call_impl")
_NAMED = ("_modules", "_parameters", "_buffers")


def smuggled(content: object) -> list[str]:
    """``Class.attribute`` of each method that a module in ``content`` overrides and each hook list in use.

    And ``Class['name']`` of each child, parameter and buffer whose name is not plain text. Modules are looked for in
    containers and in attributes, at any depth.
    """
    modules = [one for one in _objects(content) if isinstance(one, nn.Module)]
    return sorted({found for module in modules for found in (*_called(module), *_strangely_named(module))})


def is_plain_text(name: object) -> bool:
    """Whether a name can be written between double quotes in source code as it is."""
    return isinstance(name, str) and name.isprintable() and not set(name) & {'"', "\\"}


def _called(module: nn.Module) -> Iterator[str]:
    for name, value in vars(module).items():
        if callable(getattr(type(module), str(name), None)) or (str(name).endswith(_CALLED) and value):
            yield f"{type(module).__name__}.{name}"


def _strangely_named(module: nn.Module) -> Iterator[str]:
    for held in _NAMED:
        for name in vars(module).get(held) or ():
            if not is_plain_text(name):
                yield f"{type(module).__name__}[{name!a}]"


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
