"""Whether values are of the types that a configuration's annotations name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def mismatches(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> Iterator[str]:
    """Say for each of ``values`` that is not of its type what it must be.

    Args:
        values: by name, from Python or from a YAML file (lists are taken for tuples); missing ones are passed over.
        kinds: annotations by name: ``bool``, ``int``, ``float``, ``str``, ``tuple[str, ...]``, a ``Literal`` of
            strings, or a union of these and ``None``.

    Yields:
        ``epochs (='3') must be a whole number``, without a full stop.
    """
    for name, kind in kinds.items():
        if name in values and not _is(values[name], kind):
            yield f"{name} (={values[name]!r}) must be {_in_words(kind)}"


def _is(value: Any, kind: Any) -> bool:
    """Types must be the very ones: ``True`` is no number, and YAML's safe writer refuses subclasses of ``str``."""
    if get_origin(kind) is Literal:
        return type(value) is str and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(type(item) is str for item in value)
    if get_args(kind):  # a union
        return any(_is(value, one) for one in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return "a list of texts"
    return " or ".join(map(_in_words, get_args(kind))) or _WORDS[kind]
