"""Matching the data's classes with the model's outputs, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sesurgeon.errors import DataError
from sesurgeon.words import some

_MOST = 10


class Labels(Protocol):
    """``labels[target]`` is the label, for the model's outputs, of an image with that target in the data.

    If an image has one class, these are the model's output indices in the order of the data's classes.
    """

    def __getitem__(self, target: Any, /) -> int | Tensor: ...


@dataclass(frozen=True)
class ManyLabels:
    """Labels of images that may show several classes: 1 for the outputs of these classes, 0 for the others.

    Attributes:
        indices: the model's output index of each class of the data.
        outputs: the number of outputs of the model.
    """

    indices: tuple[int, ...]
    outputs: int

    def __getitem__(self, target: Sequence[int], /) -> Tensor:
        """Shape (outputs,), float32. ``target`` holds class indices of the data."""
        wanted = torch.zeros(self.outputs)
        wanted[[self.indices[index] for index in target]] = 1.0
        return wanted


def labels_for(indices: tuple[int, ...], outputs: int, *, multi_label: bool) -> Labels:
    """The labels for a model with so many outputs; ``indices`` are those of the data's classes among them."""
    return ManyLabels(indices, outputs) if multi_label else indices


def map_classes(data_classes: Sequence[str], model_classes: Sequence[str] | None, outputs: int) -> tuple[int, ...]:
    """The model's output index of each class of the data.

    Args:
        data_classes: the data's classes, by index.
        model_classes: the classes of the model's outputs; None if its checkpoint does not name them: then they are
            taken to be the data's, in the same order.
        outputs: the number of outputs of the model.

    Raises:
        DataError: the model does not know a class; or it has no names, and another number of outputs; or several
            classes or outputs have the same name, and data and model do not list the same names in the same order.
    """
    if model_classes is None or len(model_classes) != outputs:
        if len(data_classes) != outputs:
            raise DataError(
                f"The data have {len(data_classes)} classes, the model has {outputs} outputs without names.",
                hint="Use the data that the model was made for, or fine-tune the model on these.",
            )
        return tuple(range(outputs))
    if tuple(model_classes) == tuple(data_classes):  # with a name twice, too: ImageNet has two cranes
        return tuple(range(outputs))
    _check_told_apart("The data have", data_classes)
    unknown = [name for name in data_classes if name not in model_classes]
    if unknown:
        raise DataError(
            f"The model does not know these classes of the data: {some(unknown, _MOST)}.",
            hint=f"It knows {some(model_classes, _MOST)}.",
        )
    _check_told_apart("The model has", [name for name in model_classes if name in data_classes])
    return tuple(model_classes.index(name) for name in data_classes)


def _check_told_apart(whose: str, names: Sequence[str]) -> None:
    several = sorted(name for name, count in Counter(names).items() if count > 1)
    if several:
        raise DataError(
            f"{whose} several classes of the same name: {some(several, _MOST)}.",
            hint="Which one is meant cannot be told: give each a name of its own, or leave them out.",
        )


def fits(data_classes: Sequence[str], model_classes: Sequence[str] | None, outputs: int) -> bool:
    """Can a model keep its head for these classes, or does it need a new one?"""
    if len(data_classes) != outputs:
        return False
    return model_classes is None or set(model_classes) == set(data_classes)
