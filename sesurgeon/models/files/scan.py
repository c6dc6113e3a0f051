"""What the pickle of a module does, told from its instructions without executing them.

torch's safe reader lets a pickle call whatever is allowed in it. For the class of a network that would be a
constructor with any arguments, while an honest pickle never calls one: it makes each object by ``__new__``
and fills it in, once. Filling in twice would be a call too, since the first time can put a ``__setstate__``
of the file's own on the object.
"""

from __future__ import annotations

import pickletools
from collections.abc import Set as AbstractSet

# what is got by calling these is not new: it is everybody's, and nobody may change it
_SINGLETONS = frozenset({"timm.layers.format.Format"})
_KEEP_THEIR_TARGET = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")


class _Made:
    """Some object that the pickle makes."""

    filled = False


def misdeeds(pickle: bytes, callables: AbstractSet[str]) -> list[str]:
    """What ``pickle`` does beyond making objects, filling each in once, and calling ``callables``; sorted.

    The stack machine is followed with names for globals, a token for each object that is made, and None for
    any other value; calling or filling in None counts as a misdeed.

    Raises:
        ValueError: ``pickle`` is not well formed.
    """
    stack: list[object] = []
    memo: dict[object, object] = {}
    found: set[str] = set()
    try:
        for operation, argument, _ in pickletools.genops(pickle):
            if operation.name == "GLOBAL":
                stack.append(_name(str(argument)))
            elif operation.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif operation.name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            else:
                if operation.name == "REDUCE" and stack[-2] not in callables:
                    found.add(f"call of {stack[-2] if isinstance(stack[-2], str) else 'an object of its own'}")
                if operation.name == "BUILD" and not _fill_in(stack[-2]):
                    found.add("change of an object that was complete")
                _step(stack, operation)
    except (IndexError, KeyError) as error:
        raise ValueError(f"the pickle is damaged: {error!r}") from error
    return sorted(found)


def _name(argument: str) -> str:
    module, _, name = argument.partition(" ")
    # protocol 2, which torch.save writes, uses Python 2's name of the builtins
    return f"{'builtins' if module == '__builtin__' else module}.{name}"


def _fill_in(target: object) -> bool:
    """Mark ``target`` as filled in; False if it cannot be, or was already."""
    if not isinstance(target, _Made) or target.filled:
        return False
    target.filled = True
    return True


def _step(stack: list[object], operation: pickletools.OpcodeInfo) -> None:
    """Take from the stack, and put on it, what ``operation`` is documented to."""
    taken = operation.stack_before
    if pickletools.stackslice in taken:
        while stack.pop() is not pickletools.markobject:
            pass
        taken = taken[: taken.index(pickletools.markobject)]
    popped = [stack.pop() for _ in taken]
    if operation.name in _KEEP_THEIR_TARGET:
        stack.append(popped[-1])
    elif operation.name in ("NEWOBJ", "REDUCE"):
        stack.append(None if popped[-1] in _SINGLETONS else _Made())
    else:
        stack.extend(kind if kind is pickletools.markobject else None for kind in operation.stack_after)
