"""What a module and all below it looked like, so that it can be put back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

_CONTAINERS = (list, dict, set, OrderedDict)


class Footprint:
    """A shallow picture of every attribute of ``model`` and its submodules, and of the containers among them.

    Weights and buffers are held as objects; their values are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pictures = [(module, dict(vars(module)), _containers(module)) for module in model.modules()]

    def restore(self) -> list[str]:
        """Put everything back; the names of the attributes that had changed."""
        changed = []
        for module, attributes, containers in self._pictures:
            now = vars(module)
            changed += [name for name in now.keys() | attributes.keys() if _differs(now, attributes, name)]
            now.clear()
            now.update(attributes)
            for name, content in containers.items():
                if not _same_items(attributes[name], content):
                    changed.append(name)
                    _refill(attributes[name], content)
        return changed


def _containers(module: nn.Module) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in vars(module).items() if type(value) in _CONTAINERS}


def _differs(now: dict[str, Any], before: dict[str, Any], name: str) -> bool:
    return name not in now or name not in before or now[name] is not before[name]


def _same_items(container: Any, content: Any) -> bool:
    if isinstance(container, set):
        return bool(container == content)
    if isinstance(container, dict):
        return list(container) == list(content) and all(container[key] is content[key] for key in content)
    return len(container) == len(content) and all(map(lambda one, two: one is two, container, content))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
