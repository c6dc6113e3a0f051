"""Does a file compute what PyTorch computes? Outputs side by side, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sesurgeon.errors import VerificationError
from sesurgeon.export.capture import outputs_of
from sesurgeon.export.sessions import open_session
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.words import in_per_cent

_BATCHES = (1, 4)
_ROUNDING = 1e-6  # of the largest output: a smaller spread may be that of float32


@dataclass(frozen=True)
class Parity:
    """How far two runs of the same network are apart.

    Attributes:
        batch_sizes: of the batches that were compared.
        max_abs: largest absolute difference of two outputs.
        max_rel: ``max_abs`` over the spread of PyTorch's outputs, the largest distance of one from the mean of its
            image's: an output near zero is no measure, nor is what all of them have in common, as no label depends on
            it. Where an image has but one output, or all are the same, over the largest absolute output.
        top1_agreement: share of the images whose largest output is the same one, from 0 to 1.
        tolerance: the largest ``max_rel`` that passes.
        rounding: what is allowed above it: of the spread, what a rounding of the largest output may come to.
    """

    batch_sizes: tuple[int, ...]
    max_abs: float
    max_rel: float
    top1_agreement: float
    tolerance: float
    rounding: float = 0.0

    @property
    def passed(self) -> bool:
        return self.max_rel <= self.tolerance + self.rounding  # false for nan, too

    def require(self, whose: str) -> None:
        """Raise a VerificationError that says how far ``whose`` outputs are off, unless they pass."""
        if not self.passed:
            agreement = in_per_cent(self.top1_agreement, ".0f")
            raise VerificationError(
                f"{whose} outputs are up to {self.max_abs:.3g} off PyTorch's, {self.max_rel:.3g} of "
                f"their spread (allowed: {self.tolerance:g}); top-1 agrees on {agreement}.",
                hint="No file was written. Look for what forward does differently while it is exported.",
            )


def onnx_parity(model: nn.Module, path: Path, batches: Sequence[Tensor], tolerance: float) -> Parity:
    """Run the ONNX file at ``path`` in onnxruntime on the CPU, and compare it with ``model``.

    Args:
        model: in eval mode, on the CPU, with one tensor in and one tensor out, or a tuple of them.
        path: the file; its only input is ``input``, its outputs are in the same order.
        batches: float32 images, each with shape (batch, channels, height, width).
        tolerance: what passes.

    Raises:
        VerificationError: onnxruntime cannot load or run the file, or an output has another shape.
    """
    expected = [outputs_of(model, batch) for batch in batches]
    try:
        session = open_session(path)
        got = [tuple(map(torch.from_numpy, session.run(None, {"input": batch.numpy()}))) for batch in batches]
    except Exception as error:  # onnxruntime's errors share no narrower base class
        raise VerificationError(f"onnxruntime cannot run the exported file: {error}") from error
    return compare_all(expected, got, tolerance)


def compare_all(expected: Sequence[tuple[Tensor, ...]], got: Sequence[tuple[Tensor, ...]], tolerance: float) -> Parity:
    """:func:`compare`, for outputs that are several tensors a batch: that of the output which is furthest off.

    Raises:
        VerificationError: an output has another shape.
    """
    by_output = zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True)
    found = [compare(ours, theirs, tolerance) for ours, theirs in by_output]
    return max(found, key=lambda parity: (not parity.passed, parity.max_rel - parity.rounding))  # nan does not pass


def compare(expected: Sequence[Tensor], got: Sequence[Tensor], tolerance: float) -> Parity:
    """Compare outputs, batch by batch.

    Args:
        expected: PyTorch's outputs, each with shape (batch, classes), or (batch, ...).
        got: the other's.
        tolerance: what passes.

    Raises:
        VerificationError: an output has another shape.
    """
    for ours, theirs in zip(expected, got, strict=True):
        if ours.shape != theirs.shape:
            raise VerificationError(
                f"PyTorch's output has shape {tuple(ours.shape)}, the exported file's {tuple(theirs.shape)}."
            )
    expected, got = ([output.double() for output in outputs] for outputs in (expected, got))  # of masks, too
    differences = torch.stack([(a - b).abs().max() for a, b in zip(expected, got, strict=True)])
    spread = torch.stack([_spread(output) for output in expected]).max()
    most = torch.stack([output.abs().max() for output in expected]).max()
    same_top1 = torch.cat([(_top1(a) == _top1(b)).flatten() for a, b in zip(expected, got, strict=True)])
    largest, scale = differences.max(), spread if spread > _ROUNDING * most else most
    return Parity(
        batch_sizes=tuple(len(output) for output in expected),
        max_abs=float(largest),
        max_rel=float(largest / scale) if largest else 0.0,
        top1_agreement=float(same_top1.float().mean()),
        tolerance=tolerance,
        rounding=float(_ROUNDING * most / scale) if scale else 0.0,
    )


def trial_images(model: nn.Module, image: Tensor, preprocessing: Preprocessing | None) -> list[Tensor]:
    """One and four random images of the size of those in ``image`` (batch, ...): what every file is compared on.

    Those of ``image`` instead, one and four, where ``model`` gives NaN or infinity for random ones (it takes the
    logarithm of a spectrogram): outputs that are not finite cannot be compared.

    Raises:
        VerificationError: ``model`` gives no finite outputs for either.
    """
    random = [random_images((size, *image.shape[1:]), preprocessing) for size in _BATCHES]
    given = [torch.cat([image] * size)[:size] for size in _BATCHES]
    for batches in (random, given):
        outputs = (output for batch in batches for output in outputs_of(model, batch))
        if all(bool(output.isfinite().all()) for output in outputs):
            return batches
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


def _spread(outputs: Tensor) -> Tensor:
    """The largest distance of an output from the mean of its image's."""
    each = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
    return (each - each.mean(1, keepdim=True)).abs().max()


def _top1(outputs: Tensor) -> Tensor:
    return outputs.unsqueeze(-1).argmax(dim=1)  # unsqueezed for (batch,), an output of one number an image
