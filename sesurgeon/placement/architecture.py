"""Is this the architecture that a plan was made for, and if not, what differs?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from sesurgeon.models import heads_if_any
from sesurgeon.words import some

_MOST_PARTS = 8


@dataclass(frozen=True)
class Architecture:
    """What is fixed of a network before its weights: names, shapes and classes.

    Weights do not enter, nor does the number of classes: every ResNet-50 is the same architecture.

    Attributes:
        class_name: of the model; "" where an old plan does not know it.
        fingerprint: a hash of the names and shapes of all parameters and buffers, and of all modules' class names.
        parts: by first name in these paths (a child of the model, or a tensor of its own), a hash of what is below.
    """

    class_name: str
    fingerprint: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: Architecture) -> list[str]:
        """In words, how ``other`` is not this; nothing where both have one fingerprint."""
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
    """(name, what it is) of each tensor outside the heads, and of each module."""
    heads = tuple(f"{path}." for path in heads_if_any(model))
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and not name.startswith(heads):  # what is no tensor is extra state
            yield name, f"{name} {tuple(value.shape)}"
    for path, module in model.named_modules():
        yield path, f"{path} {type(module).__name__}"


def _hash(lines: Sequence[str], digits: int) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:digits]


def _listed(words: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"{words}: {some(names, _MOST_PARTS)}"]
