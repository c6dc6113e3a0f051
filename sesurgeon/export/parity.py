"""How far the outputs of a file are from PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sesurgeon.errors import VerificationError
from sesurgeon.words import in_per_cent

_ROUNDING = 1e-6  # of the largest output: a smaller spread may be only the rounding of float32


@dataclass(frozen=True)
class Parity:
    """How far the outputs of a file are from PyTorch's.

    Attributes:
        batch_sizes: of the batches that were compared.
        max_abs: largest absolute difference of two outputs.
        max_rel: ``max_abs`` divided by the spread of PyTorch's outputs, which is the largest distance, over all images
            compared, of an output from the mean of its image's outputs. An output near zero is no measure, and neither
            is what all outputs have in common, because no label depends on it. If an image has only one output, or all
            are equal, it is divided by the largest absolute output.
        top1_agreement: share of the images with the same largest output, from 0 to 1.
        tolerance: the largest ``max_rel`` that passes.
        rounding: allowed on top of it: what a rounding of the largest output comes to, relative to the spread.
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


def compare_all(expected: Sequence[tuple[Tensor, ...]], got: Sequence[tuple[Tensor, ...]], tolerance: float) -> Parity:
    """:func:`compare` each output of networks that have several, and return the result that is furthest off.

    Args:
        expected: for each batch, PyTorch's outputs.
        got: for each batch, those of the file.
        tolerance: the largest ``max_rel`` that passes.

    Raises:
        VerificationError: an output has another shape.
    """
    by_output = zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True)
    found = [compare(ours, theirs, tolerance) for ours, theirs in by_output]
    return max(found, key=lambda parity: (not parity.passed, parity.max_rel - parity.rounding))  # nan does not pass


def compare(expected: Sequence[Tensor], got: Sequence[Tensor], tolerance: float) -> Parity:
    """Compare one output, batch by batch.

    Args:
        expected: PyTorch's, each with shape (batch, classes), or (batch, ...).
        got: the file's.
        tolerance: the largest ``max_rel`` that passes.

    Raises:
        VerificationError: an output has another shape.
    """
    for ours, theirs in zip(expected, got, strict=True):
        if ours.shape != theirs.shape:
            raise VerificationError(
                f"PyTorch's output has shape {tuple(ours.shape)}, the exported file's {tuple(theirs.shape)}."
            )
    batch_sizes = tuple(len(output) for output in expected)
    if not any(output.numel() for output in expected):
        return Parity(batch_sizes, max_abs=0.0, max_rel=0.0, top1_agreement=1.0, tolerance=tolerance)
    # also boolean masks; and some batches may be empty
    expected, got = ([output.double() for output in outputs if output.numel()] for outputs in (expected, got))
    differences = torch.stack([(a - b).abs().max() for a, b in zip(expected, got, strict=True)])
    spread = torch.stack([_spread(output) for output in expected]).max()
    most = torch.stack([output.abs().max() for output in expected]).max()
    same_top1 = torch.cat([(_top1(a) == _top1(b)).flatten() for a, b in zip(expected, got, strict=True)])
    largest, scale = differences.max(), spread if spread > _ROUNDING * most else most
    return Parity(
        batch_sizes=batch_sizes,
        max_abs=float(largest),
        max_rel=float(largest / scale) if largest else 0.0,
        top1_agreement=float(same_top1.float().mean()),
        tolerance=tolerance,
        rounding=float(_ROUNDING * most / scale) if scale else 0.0,
    )


def _spread(outputs: Tensor) -> Tensor:
    """The largest distance of an output from the mean of its image's outputs."""
    each = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
    return (each - each.mean(1, keepdim=True)).abs().max()


def _top1(outputs: Tensor) -> Tensor:
    return outputs.unsqueeze(-1).argmax(dim=1)  # unsqueezed for shape (batch,), one number per image
