"""Where a model came from and how its architecture is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sesurgeon.errors import UsageError

Kind = Literal["timm", "torchvision", "factory", "module"]


@dataclass(frozen=True)
class Source:
    """An architecture by name (``timm:resnet50``, ``torchvision:resnet50``, ``factory:pkg.mod:make``) or by value.

    Attributes:
        kind: who builds it; "module" when the architecture is a module embedded in the file.
        name: timm's or torchvision's model name, or ``pkg.mod:function``; "" for "module".
        kwargs: keyword arguments of the builder, plain data.
    """

    kind: Kind
    name: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str, kwargs: Mapping[str, Any] | None = None) -> Source:
        """Read ``kind:name``.

        Raises:
            UsageError: ``text`` is not of that form, or its kind is none that can be named.
        """
        kind, _, name = text.partition(":")
        if kind not in get_args(Kind) or kind == "module" or not name:
            raise UsageError(
                f"'{text}' does not name an architecture.",
                hint="Write timm:NAME, torchvision:NAME or factory:pkg.mod:function.",
            )
        return cls(kind, name, dict(kwargs or {}))  # type: ignore[arg-type]  # narrowed by get_args above
