"""What a module and all below it looked like, so that it can be put back."""

from __future__ import annotations

import logging
import operator
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_LOOKED_INTO = (dict, list, tuple, set, deque)  # and what is derived of them: OrderedDict, defaultdict
_CLOSED = (Tensor, bool, int, float, str, type(None), torch.Size, torch.dtype, type, ModuleType, logging.Logger)
_MOST = 1000  # containers below one attribute, and items of a container, that are looked into


@dataclass(frozen=True)
class _Picture:
    """Attributes of one module, and what was in the containers and objects below them; most of these are empty.

    Attributes:
        attributes: name -> value.
        filled: (attribute, container, copy of its content) for each container that was not empty.
        empty: (attribute, container) for each that was.
        children: registered ones.
    """

    attributes: dict[str, Any]
    filled: list[tuple[str, Any, Any]]
    empty: list[tuple[str, Any]]
    children: tuple[nn.Module, ...]


class Footprint:
    """A picture of every attribute of ``model`` and its submodules, and of the containers and plain objects below.

    Weights and buffers are held as objects; their values are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        modules = list(model.modules())
        own = {id(vars(module)) for module in modules}
        self._pictures = {module: _picture(module, own) for module in modules}

    @property
    def modules(self) -> Collection[nn.Module]:
        """The modules in the picture."""
        return self._pictures.keys()

    def restore(self, module: nn.Module | None = None) -> list[str]:
        """Put back all of the model, or ``module`` and what was below it; names the attributes that differed."""
        changed: list[str] = []
        for part in self._below(self._model if module is None else module):
            changed += _restore(part, self._pictures[part])
        return changed

    def differences(self, other: Footprint) -> set[str]:
        """Names of the attributes that are, or hold, other objects in another footprint of the same modules."""
        if self._pictures.keys() != other._pictures.keys():
            return {"_modules"}
        names: set[str] = set()
        for module, picture in self._pictures.items():
            there = other._pictures[module]
            names.update(_differing(picture.attributes, there.attributes))
            then, now = _by_container(picture), _by_container(there)
            names.update(
                name
                for place, (name, content) in (then | now).items()
                if place not in then or place not in now or not _same_items(then[place][1], content)
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


def _picture(module: nn.Module, own: set[int]) -> _Picture:
    attributes = dict(vars(module))
    held = []
    for name, value in attributes.items():
        if type(value) in (dict, OrderedDict) and not value:  # almost all of them
            held.append((name, value))
        elif type(value) not in _CLOSED:
            held += [(name, container) for container in _containers(value, own)]
    filled = [(name, container, _content(container)) for name, container in held if container]
    empty = [(name, container) for name, container in held if not container]
    return _Picture(attributes, filled, empty, tuple(module.children()))


def _content(container: Any) -> Any:
    """A plain copy: a class of the user's own may not be copied as it is."""
    if isinstance(container, dict):
        return dict.copy(container)
    return set(container) if isinstance(container, set) else list(container)


def _containers(value: Any, own: set[int]) -> Iterator[Any]:
    """The containers in ``value``, itself included, and the attributes of objects in it; not of ``own`` modules.

    Of those with more than a thousand items, as samples of a data set, only ``value`` itself.
    """
    seen: set[int] = set()
    ahead = [value]
    while ahead and len(seen) < _MOST:
        item = ahead.pop()
        if isinstance(item, _CLOSED):
            continue
        inside = item if isinstance(item, _LOOKED_INTO) else getattr(item, "__dict__", None)
        if inside is None or id(inside) in own or id(inside) in seen or (len(inside) > _MOST and inside is not value):
            continue
        seen.add(id(inside))
        if not isinstance(inside, tuple):
            yield inside
        if len(inside) <= _MOST:
            ahead += dict.values(inside) if isinstance(inside, dict) else inside


def _by_container(picture: _Picture) -> dict[int, tuple[str, Any]]:
    return {id(container): (name, content) for name, container, content in picture.filled}


def _restore(module: nn.Module, picture: _Picture) -> list[str]:
    changed: list[str] = []
    now, before = vars(module), picture.attributes
    if not _same_items(now, before):
        changed += _differing(now, before)
        now.clear()
        now.update(before)
    for name, container, content in picture.filled:
        if not _same_items(container, content):
            changed.append(name)
            _refill(container, content)
    for name, container in picture.empty:
        if container:
            changed.append(name)
            container.clear()
    return changed


def _differing(now: dict[str, Any], before: dict[str, Any]) -> set[str]:
    one_sided = now.keys() ^ before.keys()
    return one_sided | {name for name in now.keys() & before.keys() if now[name] is not before[name]}


def _same_items(container: Any, content: Any) -> bool:
    """Whether they hold the same objects, in the same order; by identity, as ``==`` of tensors gives a tensor."""
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
