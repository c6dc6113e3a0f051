"""Whether the settings that a run's folder keeps are such: people edit files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sesurgeon.finetune.config import FinetuneConfig

_NEEDED = ("model", "data")
_OF_COMMANDS: dict[str, Any] = {
    **dict.fromkeys(_NEEDED, str),
    "arch": str | None,
    "model_kwargs": tuple[str, ...] | None,
    "num_classes": int | None,
    "pretrained": bool,
    "num_processes": int,
}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def problems_of(settings: Mapping[Any, Any]) -> Iterator[str]:
    """What is missing in ``settings``, and what is of another kind than the run's configuration, in words."""
    kinds = {**_OF_COMMANDS, **get_type_hints(FinetuneConfig)}
    yield from (f"{name} is missing" for name in _NEEDED if name not in settings)
    for name, kind in kinds.items():
        if name in settings and not _is(settings[name], kind):
            yield f"{name} (={settings[name]!r}) must be {_in_words(kind)}"


def _is(value: Any, kind: Any) -> bool:
    """``kind`` is an annotation of :class:`FinetuneConfig`; YAML has lists for its tuples."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if get_args(kind):  # a union
        return any(_is(value, one) for one in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return "a list of texts"
    return " or ".join(map(_in_words, get_args(kind))) or _WORDS[kind]
