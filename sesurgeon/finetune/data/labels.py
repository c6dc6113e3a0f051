"""Bringing the data's classes and the model's outputs together, by name."""

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
    """``labels[target]`` is what a model should give for an image with that target in the data.

    Where an image has one class these are the model's output indices, in the order of the data's classes.
    """

    def __getitem__(self, target: Any, /) -> int | Tensor: ...


@dataclass(frozen=True)
class ManyLabels:
    """What a model should give for images that may show several classes: 1 for each that an image shows, else 0.

    Attributes:
        indices: the model's output index of each class of the data.
        outputs: how many the model has.
    """

    indices: tuple[int, ...]
    outputs: int

    def __getitem__(self, target: Sequence[int], /) -> Tensor:
        """Shape (outputs,), float32. ``target`` holds class indices of the data."""
        wanted = torch.zeros(self.outputs)
        wanted[[self.indices[index] for index in target]] = 1.0
        return wanted


def map_classes(data_classes: Sequence[str], model_classes: Sequence[str] | None, outputs: int) -> tuple[int, ...]:
    """The model's output index of each class of the data.

    Args:
        data_classes: the data's classes, by index.
        model_classes: what the model's outputs mean; None when its checkpoint does not say, then the order is
            taken to be the same.
        outputs: how many outputs the model has.

    Raises:
        DataError: a class that the model does not know, another number of classes when it has no names for them, or a
            name that several classes or outputs have, unless the names are the same ones in the same order.
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
    """Can a model go on with its head, or must it get a new one for these classes?"""
    if len(data_classes) != outputs:
        return False
    return model_classes is None or set(model_classes) == set(data_classes)
