"""What a model carries along: where it came from, what its outputs mean, what was done to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.models.preprocessing import Preprocessing, stated_preprocessing
from sesurgeon.models.sources.source import Source

_ATTRIBUTE = "_sesurgeon_provenance"
_DIGEST = "sha256:"


@dataclass(frozen=True)
class Structure:
    """What a network is built of. Tells whether it changed since its source built it, in this process.

    See :func:`sesurgeon.models.structure_of`.

    Attributes:
        body: hash over modules and tensors, apart from the number of scores that the heads give.
        outputs: class scores; None without a classifier.
    """

    body: str
    outputs: int | None


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint says besides the weights.

    Attributes:
        source: how the architecture is rebuilt.
        classes: names of the outputs, in order; None when not known.
        num_classes: outputs of the head that was put in place of the architecture's own; None when it is
            still there.
        head: path of the layer that gives the class scores, where it is not the last one of the network; None where
            it is, or where that was not looked for.
        multi_label: each output says by its sigmoid whether an image shows that class, so that it may show several
            or none; else the softmax of all outputs chooses one.
        preprocessing: what an image goes through before the model; None when not known.
        history: one record an operation, oldest first (plain data: str, int, float, bool, None, list, dict).
        built: what the source built, to see changes since; None when it did not build this model in this process.
            No file keeps it: other versions of torch, torchvision and timm describe the same modules in other words.
    """

    source: Source
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    preprocessing: Preprocessing | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    multi_label: bool = False
    head: str | None = None
    built: Structure | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is kept in checkpoints."""
        return {
            "source": self.source.to_dict(),
            "classes": None if self.classes is None else list(self.classes),
            "num_classes": self.num_classes,
            "head": self.head,
            "multi_label": self.multi_label,
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_dict(),
            "history": [dict(record) for record in self.history],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Provenance:
        """The inverse of :meth:`to_dict`. Nothing is built or imported.

        Raises:
            UnreadableFileError: ``data`` is not a provenance.
        """
        try:
            classes, num_classes, head, preprocessing = (
                data.get(key) for key in ("classes", "num_classes", "head", "preprocessing")
            )
            return cls(
                source=Source.from_dict(data["source"]),
                classes=None if classes is None else tuple(str(name) for name in classes),
                num_classes=None if num_classes is None else int(num_classes),
                head=None if head is None else str(head),
                multi_label=bool(data.get("multi_label", False)),
                preprocessing=None if preprocessing is None else Preprocessing.from_dict(preprocessing),
                history=tuple(dict(record) for record in data.get("history", ())),
            )
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UnreadableFileError(f"The record of where the model came from is damaged: {error!r}.") from error


def check_is_network(model: object) -> None:
    """Raise a UsageError unless ``model`` is a module: the name of a file is not."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"Expected a network, not a {type(model).__name__}.",
            hint="sesurgeon.load reads one from a file or builds it by its name.",
        )


def provenance_of(model: nn.Module) -> Provenance:
    """The provenance attached to ``model``; for a module of the caller's own, one that embeds it."""
    check_is_network(model)
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Provenance) else Provenance(Source("module"))


def add_record(model: nn.Module, command: str, **about: Any) -> None:
    """Add a record to the history of ``model``: what was done to it, in plain data."""
    provenance = provenance_of(model)
    record = {"command": command, **about}
    attach_provenance(model, replace(provenance, history=(*provenance.history, record)))


def digest_of(data: str) -> str:
    """A digest of what a history calls data, for files that are passed on: paths on the user's machine are private."""
    return data if data.startswith(_DIGEST) else _DIGEST + hashlib.sha256(os.fsencode(data)).hexdigest()


def state_preprocessing(model: nn.Module, stated: Preprocessing | Mapping[str, Any]) -> None:
    """Note what an image goes through before ``model``, as a user says.

    Arguments and errors are those of :func:`sesurgeon.models.preprocessing.stated_preprocessing`.
    """
    known = provenance_of(model)
    attach_provenance(model, replace(known, preprocessing=stated_preprocessing(known.preprocessing, stated)))


def detach_provenance(model: nn.Module) -> None:
    """Take the provenance off ``model``."""
    model.__dict__.pop(_ATTRIBUTE, None)


def attach_provenance(model: nn.Module, provenance: Provenance) -> None:
    """Attach ``provenance`` to ``model``, where deep copies keep it and no state dict shows it."""
    model.__dict__[_ATTRIBUTE] = provenance
