"""Where a model came from and how its architecture is rebuilt."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.files import StrPath

SourceKind = Literal["timm", "torchvision", "factory", "module"]

BUILDERS: tuple[SourceKind, ...] = ("timm", "torchvision", "factory")
"""The kinds that can be named, as ``timm:resnet50``."""


@dataclass(frozen=True)
class Source:
    """An architecture by name (``timm:resnet50``, ``torchvision:…``, ``factory:pkg.mod:make``) or by value.

    Attributes:
        kind: who builds it; "module" when the architecture is a module embedded in the file.
        name: timm's or torchvision's model name, or ``pkg.mod:function``; "" for "module".
        kwargs: keyword arguments of the builder, plain data.
    """

    kind: SourceKind
    name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str, kwargs: Mapping[str, Any] | None = None) -> Source:
        """Read ``kind:name``.

        Raises:
            UsageError: ``text`` is not of that form, or its kind cannot be named.
        """
        kind, _, name = text.partition(":")
        if kind not in BUILDERS or not name:
            raise UsageError(
                f"'{text}' does not name an architecture.",
                hint="Write timm:NAME, torchvision:NAME or factory:pkg.mod:function.",
            )
        return cls(kind, name, dict(kwargs or {}))

    @property
    def typed(self) -> Source:
        """It as :attr:`options` name it when they are typed: with lists for tuples, texts for what is no plain data."""
        return replace(self, kwargs=json.loads(json.dumps(dict(self.kwargs), default=str)))

    @property
    def options(self) -> str:
        """The command-line options that name it, arguments included."""
        arguments = [shlex.quote(f"{key}={json.dumps(value, default=str)}") for key, value in self.kwargs.items()]
        return " ".join([f"--arch {shlex.quote(str(self))}", *(f"--model-kwargs {argument}" for argument in arguments)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is kept in checkpoints."""
        return {"kind": self.kind, "name": self.name, "kwargs": dict(self.kwargs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of :meth:`to_dict`. Nothing is built or imported.

        Raises:
            UnreadableFileError: ``data`` does not describe a source.
        """
        kind, name, kwargs = data.get("kind"), data.get("name", ""), data.get("kwargs", {})
        if kind not in get_args(SourceKind) or not isinstance(name, str) or not isinstance(kwargs, Mapping):
            raise UnreadableFileError(f"{dict(data)!r} does not describe where an architecture comes from.")
        return cls(kind, name, dict(kwargs))  # type: ignore[arg-type]  # narrowed by get_args above


def named_source(model: StrPath | Source) -> Source | None:
    """The source that ``model`` names; None when it is a path.

    Raises:
        UsageError: it is empty, or neither text nor a path.
    """
    if isinstance(model, Source):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(
            f"A {type(model).__name__} is neither a file nor a name: there is nothing to load.",
            hint="Pass a network that you have in Python directly to add_se, find_sites, …",
        )
    if not str(model):
        raise UsageError("No model is named: MODEL is empty.", hint="Give a file, timm:NAME or torchvision:NAME.")
    kind, colon, _ = str(model).partition(":")
    return Source.parse(model) if isinstance(model, str) and colon and kind in BUILDERS else None
