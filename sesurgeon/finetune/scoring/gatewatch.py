"""Did the gates move? What inserted blocks multiply by, watched while the network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Block
from sesurgeon.errors import UsageError
from sesurgeon.finetune.scoring.outputs import device_of, evaluating

_MOVED = 0.01


@dataclass(frozen=True)
class GateMovement:
    """The factors of one gate over some images. A block starts with all of them at exactly 1.

    A gate has a factor for each channel; those of CBAM's second part and of gather-excite with an extent have one
    for each place too, and "channel" stands for both then.

    Attributes:
        gate: path of the inserted block; of the part of it, for a block with two gates.
        images: how many were seen; one that runs through the block several times counts as often.
        factors: of one image.
        mean: of all factors.
        image_spread: standard deviation over the images, mean over the channels: how much the gate depends on
            what it sees. Near 0, the gate is a constant.
        channel_spread: standard deviation over the channels of their means over the images: how differently the
            gate treats them.
        distance: mean of |factor - 1|.
        largest: maximum of |factor - 1|.
    """

    gate: str
    images: int
    factors: int
    mean: float
    image_spread: float
    channel_spread: float
    distance: float
    largest: float

    @property
    def moved(self) -> bool:
        """Does any factor differ from 1 by a hundredth or more? Otherwise the block does next to nothing."""
        return self.largest >= _MOVED


class GateWatch:
    """What the watched gates gave so far."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def see(self, gate: str, factors: Tensor) -> None:
        """Take in what a gate gave for a batch: a tensor of shape (images, ...).

        Raises:
            UsageError: it gave another number of factors an image before.
        """
        sums = _Sums.of(factors.detach().flatten(1).cpu().double() - 1)
        before = self._sums.get(gate)
        if before is not None and before.total.shape != sums.total.shape:
            raise UsageError(
                f"The gate {gate} gave {len(before.total)} factors an image, and then {len(sums.total)}.",
                hint="Watch gates on images of one size.",
            )
        self._sums[gate] = sums if before is None else before.plus(sums)

    def movements(self) -> tuple[GateMovement, ...]:
        """One a gate that ran, in the order in which they did."""
        return tuple(sums.movement(gate) for gate, sums in self._sums.items())


@contextlib.contextmanager
def watching_gates(model: nn.Module) -> Iterator[GateWatch]:
    """Watch the inserted blocks of ``model`` during whatever it is run for, an evaluation for example.

    The hooks that do it are gone afterwards.
    """
    watch = GateWatch()
    hooks = []
    try:
        for gate, module in _gates(model):
            hooks.append(module.register_forward_hook(partial(_show, watch, gate)))
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def watch_gates(model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> tuple[GateMovement, ...]:
    """Run ``model`` in eval mode over images and say what the gates of its inserted blocks did.

    Its train and eval flags are left as they were, and no hook stays. A few hundred images are enough:
    ``itertools.islice(loader, 8)``.

    Args:
        model: a network with inserted blocks; one without gives nothing.
        batches: images of shape (N, C, H, W), all of one size, and anything, as labels.

    Raises:
        UsageError: the images differ in size, and a gate has factors for places.
    """
    device = device_of(model)
    with watching_gates(model) as watch, evaluating(model), torch.no_grad():
        for images, _ in batches:
            model(images.to(device))
    return watch.movements()


def _gates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from sesurgeon.surgery import blocks_of

    for path, block in blocks_of(model).items():
        if isinstance(block, Block):
            names = {part: name for name, part in block.named_modules()}
            for part in block.scalings():
                yield f"{path}.{names[part]}".rstrip("."), part.gate


def _show(watch: GateWatch, gate: str, module: nn.Module, inputs: object, factors: Tensor) -> None:
    watch.see(gate, factors)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over images of d = factor - 1, which is small where its square would drown in that of the factor."""

    images: int
    total: Tensor  # of d, for each factor, float64
    squares: Tensor  # of d * d, likewise
    distance: float  # of |d|, over all factors
    largest: float  # |d|

    @classmethod
    def of(cls, d: Tensor) -> _Sums:
        size = d.abs()
        return cls(len(d), d.sum(0), d.square().sum(0), float(size.sum()), float(size.max()))

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.images + other.images,
            self.total + other.total,
            self.squares + other.squares,
            self.distance + other.distance,
            max(self.largest, other.largest),
        )

    def movement(self, gate: str) -> GateMovement:
        means = self.total / self.images
        variances = (self.squares / self.images - means.square()).clamp(min=0)
        return GateMovement(
            gate=gate,
            images=self.images,
            factors=len(means),
            mean=1 + float(means.mean()),
            image_spread=float(variances.sqrt().mean()),
            channel_spread=float(means.std(correction=0)),
            distance=self.distance / (self.images * len(means)),
            largest=self.largest,
        )
