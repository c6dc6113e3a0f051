"""Images on which an exported file is compared with PyTorch, and what PyTorch computes for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.errors import VerificationError
from sesurgeon.export.outputs import as_tuple, run
from sesurgeon.export.prepare import Prepared
from sesurgeon.models.preprocessing import Preprocessing

_BATCHES = (1, 4)


@dataclass(frozen=True)
class Trial:
    """A batch of images, and PyTorch's outputs for it.

    Attributes:
        images: float32, with shape (batch, channels, height, width).
        outputs: each with shape (batch, ...).
    """

    images: Tensor
    outputs: tuple[Tensor, ...]


def trials_on(network: nn.Module, batches: Iterable[Tensor]) -> list[Trial]:
    """Run a prepared network on each batch.

    Raises:
        UntraceableError: it fails.
    """
    return [Trial(images, as_tuple(run(network, images))) for images in batches]


def usual_trials(prepared: Prepared) -> list[Trial]:
    """Trials on one and on four random images.

    If the network gives NaN or infinity for these (because it takes the logarithm of a spectrogram, say), the images of
    the example are taken instead: outputs that are not finite cannot be compared.

    Raises:
        VerificationError: the outputs for the example are not finite either.
    """
    images = prepared.images
    random = [random_images((size, *images.shape[1:]), prepared.provenance.preprocessing) for size in _BATCHES]
    given = [torch.cat([images] * size)[:size] for size in _BATCHES]
    for batches in (random, given):
        trials = trials_on(prepared.network, batches)
        if all(bool(output.isfinite().all()) for trial in trials for output in trial.outputs):
            return trials
    raise VerificationError(
        "The network itself gives NaN or infinity on random images and on the example: there is nothing to compare "
        "the file with.",
        hint="Give images that it is made for, as example_inputs.",
    )


def random_images(shape: tuple[int, ...], preprocessing: Preprocessing | None) -> Tensor:
    """Noise in the range of preprocessed images, the same on every call.

    Args:
        shape: (batch, channels, height, width).
        preprocessing: gives the range; None stands for a mean of 1/2 and a standard deviation of 1/4.
    """
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if preprocessing is None or len(preprocessing.mean) != shape[1]:
        return (pixels - 0.5) / 0.25
    mean, std = (
        torch.tensor(values).view(-1, *[1] * (len(shape) - 2)) for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std
