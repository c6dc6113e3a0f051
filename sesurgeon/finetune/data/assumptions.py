"""What is taken for granted of a network whose file does not say it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sesurgeon.finetune.data.dataset import Data
from sesurgeon.models.inputs import input_channels
from sesurgeon.models.preprocessing import default_preprocessing
from sesurgeon.models.provenance import provenance_of
from sesurgeon.words import some


def assumptions(model: nn.Module, data: Data) -> Iterator[str]:
    """How images are normalised and which output is which class, in sentences; nothing where the model says it."""
    known = provenance_of(model)
    usual = default_preprocessing(input_channels(model) or 3, 1, 1)
    if known.preprocessing is None and usual.mean:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (usual.mean, usual.std))
        yield (
            f"The model does not say how its images were normalised: mean {mean} and std {std} are used. "
            "If they were others, say so by --preprocessing (in Python: load(..., preprocessing=))."
        )
    if known.classes is None and not data.unlabelled:
        yield f"The model does not name its classes: its outputs are taken to be {some(data.classes)}, in this order."
