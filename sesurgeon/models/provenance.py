"""What a model carries along: where it came from, what its outputs mean, what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.source import Source

_ATTRIBUTE = "_sesurgeon_provenance"


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint says beside the weights.

    Attributes:
        source: how the architecture is rebuilt.
        classes: names of the outputs, in order; None when not known.
        num_classes: outputs of the head that was put in place of the architecture's own; None when it is still there.
        preprocessing: what an image goes through before the model; None when not known.
        history: one record a command, oldest first (plain data: str, int, float, bool, None, list, dict).
    """

    source: Source
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    preprocessing: Preprocessing | None = None
    history: tuple[Mapping[str, Any], ...] = ()


def provenance_of(model: nn.Module) -> Provenance:
    """The provenance attached to ``model``; for a module of the caller's own, one that embeds the module itself."""
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Provenance) else Provenance(Source("module"))


def attach_provenance(model: nn.Module, provenance: Provenance) -> None:
    """Hang ``provenance`` on ``model`` as a plain attribute: it survives deep copies and no state dict shows it."""
    model.__dict__[_ATTRIBUTE] = provenance
