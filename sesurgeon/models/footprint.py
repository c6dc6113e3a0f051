"""What a module and all below it looked like, so that it can be put back."""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_CONTAINERS = (list, dict, set, deque)  # and what is derived of them: OrderedDict, defaultdict


@dataclass(frozen=True)
class _Picture:
    """Attributes of one module, and what was in those that are containers; most of these are empty."""

    attributes: dict[str, Any]
    filled: dict[str, Any]
    empty: dict[str, Any]
    children: tuple[nn.Module, ...]


class Footprint:
    """A shallow picture of every attribute of ``model`` and its submodules, and of the containers among them.

    Weights and buffers are held as objects; their values are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pictures = {module: _picture(module) for module in model.modules()}

    @property
    def modules(self) -> Collection[nn.Module]:
        """Those of which it is."""
        return self._pictures.keys()

    def restore(self, module: nn.Module | None = None) -> list[str]:
        """Put back all of the model, or ``module`` and what was below it; the names of the attributes that differed."""
        changed: list[str] = []
        for part in self._below(self._model if module is None else module):
            changed += _restore(part, self._pictures[part])
        return changed

    def differences(self, other: Footprint) -> set[str]:
        """Names of the attributes that are other objects, or hold others, in another footprint of the same modules."""
        if self._pictures.keys() != other._pictures.keys():
            return {"_modules"}
        names: set[str] = set()
        for module, picture in self._pictures.items():
            there = other._pictures[module]
            names.update(_differing(picture.attributes, there.attributes))
            if picture.filled.keys() != there.filled.keys():
                names |= picture.filled.keys() ^ there.filled.keys()
            names.update(
                name
                for name, content in there.filled.items()
                if name in picture.filled and not _same_items(content, picture.filled[name])
            )
        return names

    def _below(self, module: nn.Module) -> Iterator[nn.Module]:
        """``module`` and what was below it, each once, even if it was taken out since."""
        seen, ahead = {module}, [module]
        while ahead:
            part = ahead.pop()
            yield part
            new = [child for child in self._pictures[part].children if child not in seen]
            seen.update(new)
            ahead += new


def _picture(module: nn.Module) -> _Picture:
    attributes = dict(vars(module))
    containers = {name: value for name, value in attributes.items() if isinstance(value, _CONTAINERS)}
    filled = {name: copy.copy(container) for name, container in containers.items() if container}
    empty = {name: container for name, container in containers.items() if not container}
    return _Picture(attributes, filled, empty, tuple(module.children()))


def _restore(module: nn.Module, picture: _Picture) -> list[str]:
    changed: list[str] = []
    now, before = vars(module), picture.attributes
    if not _same_items(now, before):
        changed += _differing(now, before)
        now.clear()
        now.update(before)
    for name, content in picture.filled.items():
        if not _same_items(before[name], content):
            changed.append(name)
            _refill(before[name], content)
    if any(picture.empty.values()):
        changed += [name for name, container in picture.empty.items() if container]
        for container in picture.empty.values():
            container.clear()
    return changed


def _differing(now: dict[str, Any], before: dict[str, Any]) -> set[str]:
    one_sided = now.keys() ^ before.keys()
    return one_sided | {name for name in now.keys() & before.keys() if now[name] is not before[name]}


def _same_items(container: Any, content: Any) -> bool:
    """Whether they hold the same objects, in the same order. Compared by identity: tensors have no other equality."""
    if len(container) != len(content):
        return False
    if isinstance(container, set):
        return bool(container == content)
    if isinstance(container, dict):
        return list(container) == list(content) and all(map(operator.is_, container.values(), content.values()))
    return all(map(operator.is_, container, content))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)
