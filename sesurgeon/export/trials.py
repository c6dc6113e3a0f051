"""Inputs on which an exported file is compared with PyTorch, and what PyTorch computes for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sesurgeon.errors import VerificationError
from sesurgeon.export.inputs import Inputs
from sesurgeon.export.outputs import as_tuple, run
from sesurgeon.export.prepare import Prepared
from sesurgeon.models.preprocessing import Preprocessing

_BATCHES = (1, 4)


@dataclass(frozen=True)
class Trial:
    """A batch, and PyTorch's outputs for it.

    Attributes:
        inputs: by name.
        outputs: each with shape (batch, ...).
    """

    inputs: Inputs
    outputs: tuple[Tensor, ...]


def trials_on(network: nn.Module, batches: Iterable[Inputs]) -> list[Trial]:
    """Run a prepared network on the inputs of each batch.

    Raises:
        UntraceableError: it fails.
    """
    return [Trial(inputs, as_tuple(run(network, inputs.values()))) for inputs in batches]


def usual_trials(prepared: Prepared) -> list[Trial]:
    """Trials on one and on four random images, with whole numbers and masks as in the example.

    If the network gives NaN or infinity for these (because it takes the logarithm of a spectrogram, say), the example
    is taken instead: outputs that are not finite cannot be compared.

    Raises:
        VerificationError: the outputs for the example are not finite either.
    """
    given = [{name: torch.cat([value] * size)[:size] for name, value in prepared.inputs.items()} for size in _BATCHES]
    random = [_random_like(inputs, prepared.provenance.preprocessing) for inputs in given]
    for batches in (random, given):
        trials = trials_on(prepared.network, batches)
        if all(bool(output.isfinite().all()) for trial in trials for output in trial.outputs):
            return trials
    raise VerificationError(
        "The network itself gives NaN or infinity on random images and on the example: there is nothing to compare "
        "the file with.",
        hint="Give images that it is made for, as example_inputs.",
    )


def _random_like(inputs: Inputs, preprocessing: Preprocessing | None) -> Inputs:
    """Noise in place of the floating-point tensors, another for each."""
    return {
        name: random_images(tuple(value.shape), preprocessing, seed=seed) if value.is_floating_point() else value
        for seed, (name, value) in enumerate(inputs.items())
    }


def random_images(shape: tuple[int, ...], preprocessing: Preprocessing | None, *, seed: int = 0) -> Tensor:
    """Noise in the range of preprocessed images, the same on every call.

    Args:
        shape: (batch, channels, height, width), or (batch, ...) for other tensors.
        preprocessing: gives the range; None stands for a mean of 1/2 and a standard deviation of 1/4.
        seed: for other noise.
    """
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if preprocessing is None or shape[1:2] != (len(preprocessing.mean),):
        return (pixels - 0.5) / 0.25
    mean, std = (
        torch.tensor(values).view(-1, *[1] * (len(shape) - 2)) for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels - mean) / std
