"""Is this the architecture that a plan was made for, and if not, what differs?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sesurgeon.models import score_layers
from sesurgeon.paths import is_within_any
from sesurgeon.words import some


@dataclass(frozen=True)
class Architecture:
    """Names, shapes and classes of a network's modules and tensors. Compares a plan with a network; kept in files.

    Neither weights nor the number of classes count: every ResNet-50 is the same architecture.

    Attributes:
        class_name: of the model; "" where a plan written by hand leaves it out.
        fingerprint: a hash of the names and shapes of all parameters and buffers, and of all modules' class names.
        parts: by first name in these paths (a child of the model, or a tensor of its own), a hash of what is below.
    """

    class_name: str
    fingerprint: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as files hold it."""
        return {"class": self.class_name, "fingerprint": self.fingerprint, "parts": dict(self.parts)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """The inverse of :meth:`to_dict`."""
        parts = {str(name): str(part) for name, part in data["parts"].items()}
        return cls(str(data["class"]), str(data["fingerprint"]), parts)

    def differences(self, other: Architecture) -> list[str]:
        """How ``other`` differs, in words; nothing where both have the same fingerprint."""
        if self.fingerprint == other.fingerprint:
            return []
        found = []
        if self.class_name not in ("", other.class_name):
            found.append(f"it was made for the class {self.class_name}, this is {other.class_name}")
        shared = [name for name in self.parts if name in other.parts]
        found += _listed("parts that differ", [name for name in shared if self.parts[name] != other.parts[name]])
        found += _listed("parts missing here", [name for name in self.parts if name not in other.parts])
        if self.parts:
            found += _listed("parts only here", [name for name in other.parts if name not in self.parts])
        return found or [f"its fingerprint is {self.fingerprint}, this has {other.fingerprint}"]


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a plain ``model``, without inserted blocks."""
    lines = list(_lines(model))
    parts: dict[str, list[str]] = {}
    for name, line in lines:
        if name:
            parts.setdefault(name.split(".")[0], []).append(line)
    return Architecture(
        type(model).__name__,
        _hash([line for _, line in lines], 16),
        {part: _hash(below, 8) for part, below in parts.items()},
    )


def _lines(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(name, description) of each tensor outside the layers that give class scores, and of each module."""
    scoring = score_layers(model)
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and not is_within_any(name, scoring):  # what is no tensor is extra state
            yield name, f"{name} {tuple(value.shape)}"
    for path, module in model.named_modules():
        yield path, f"{path} {type(module).__name__}"


def _hash(lines: Sequence[str], digits: int) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:digits]


def _listed(words: str, names: Sequence[str]) -> list[str]:
    return [f"{words}: {some(names)}"] if names else []
