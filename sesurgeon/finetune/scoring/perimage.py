"""Evaluations that keep one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class PerImage:
    """An evaluation. Its tensors have a row per image; everything else is the same for all images.

    Attributes:
        input_size: (channels, height, width) as which the images were seen; None where only a run's settings say it.
    """

    classes: Mapping[int, str]
    input_size: tuple[int, int, int] | None = field(default=None, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for :meth:`from_dict`."""
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "classes": dict(self.classes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**data)


Part = TypeVar("Part", bound=PerImage)


def joined(parts: Sequence[Part]) -> Part:
    """One evaluation from ``parts`` of it, in the order of their images."""
    columns = {name: [getattr(part, name) for part in parts] for name in parts[0].to_dict()}
    rows: dict[str, Any] = {name: torch.cat(of) for name, of in columns.items() if isinstance(of[0], Tensor)}
    return replace(parts[0], **rows)
