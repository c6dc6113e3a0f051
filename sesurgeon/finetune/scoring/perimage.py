"""What is measured image by image: kept in files, put together from parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class PerImage:
    """An evaluation: its tensors have a row for each image, everything else is the same for all of them."""

    classes: Mapping[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, as :meth:`from_dict` takes them."""
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "classes": dict(self.classes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**data)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One evaluation of which each of ``parts`` has every n-th image, dealt out in turn."""
        columns = {name: [getattr(part, name) for part in parts] for name in parts[0].to_dict()}
        rows: dict[str, Any] = {name: in_turn(of) for name, of in columns.items() if isinstance(of[0], Tensor)}
        return replace(parts[0], **rows)


def in_turn(parts: Sequence[Tensor]) -> Tensor:
    """The rows that were dealt out in turn: the first of each part, the second of each, …"""
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole
