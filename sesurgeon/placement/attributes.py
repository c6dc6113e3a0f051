"""Attribute names of blocks in their owners: which are free, and which hold inserted blocks."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Mapping
from typing import Literal

from torch import nn

MARK = "_sesurgeon_blocks"
"""Surgery's mark on the class that it gives to an owner: attribute of each block -> what was there before."""

Before = Literal["nothing", "attribute", "module"]


def is_attribute(name: str) -> bool:
    """Whether ``self.NAME`` is valid code for that very name: Python reads the ligature "\ufb01" as two letters."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name != "self"


def before(owner: nn.Module, name: str) -> Before | None:
    """What a block called ``name`` would replace; None where the name is not free.

    Returns:
        "nothing" where the owner has no such attribute, and where it is None, as timm's blocks have it for ``se``:
        "attribute" for a plain one, "module" for ``register_module(name, None)``. What the owner's class has under
        that name (an attribute, a property) would hide the block, or be hidden by it.
    """
    if hasattr(type(owner), name):
        return None
    if not hasattr(owner, name):
        return "nothing"
    if name in owner.__dict__ and owner.__dict__[name] is None:
        return "attribute"
    if name in owner._modules and owner._modules[name] is None:
        return "module"
    return None


def free_attribute(owner: nn.Module, path: str, taken: Collection[tuple[str, str]]) -> str:
    """``se`` as in timm, whose blocks have a None of that name for it; ``se2``, ``se3``… where it is in use.

    Args:
        owner: the module that gets the block.
        path: of the owner.
        taken: (path of the owner, name) of the other blocks that will be inserted.
    """
    number = 1
    while True:
        attribute = "se" if number == 1 else f"se{number}"
        if (path, attribute) not in taken and before(owner, attribute) is not None:
            return attribute
        number += 1


def inserted(owner: nn.Module) -> Mapping[str, Before]:
    """The attributes of ``owner`` that hold inserted blocks, and what was there before; empty for most modules.

    The mark may be on a base class: ``torch.nn.utils.parametrize`` derives another class from ours. A slice of an
    ``nn.Sequential`` has the same class as the whole, but only some of the blocks.
    """
    marked: Mapping[str, Before] = getattr(type(owner), MARK, {})
    return {name: there for name, there in marked.items() if name in owner._modules}
