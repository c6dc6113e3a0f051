"""Did the gates move? What inserted blocks multiply by, watched while the network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.blocks import Block, Scaling
from sesurgeon.finetune.scoring.outputs import as_input, evaluating

CONSTANT = 0.01
"""The spread over images below which each channel of a constant gate stays; the distance from 1 below which it is 1."""


@dataclass(frozen=True)
class GateMovement:
    """The factors of one gate over some images. A block starts with all of them at exactly 1.

    A gate has a factor for each channel; those of CBAM's second part and of gather-excite with an extent have one
    for each place too, and "channel" stands for both then, unless the number of places changes between passes: then
    each channel has one, the mean over its places.

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
        return self.largest >= CONSTANT


class GateWatch:
    """What the watched gates gave so far.

    Args:
        classes: how many an image may show, to tell them apart; see :meth:`showing`.
    """

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes
        self._sums: dict[str, GateSums] = {}
        self._shown: Tensor | None = None

    def showing(self, labels: Tensor) -> None:
        """Say what the images of the next passes show: class indices (N,), or ones and zeros (N, classes)."""
        shown = labels if labels.ndim == 2 else F.one_hot(labels, self.classes)
        self._shown = shown.cpu().double()

    def see(self, gate: str, factors: Tensor) -> None:
        """Take in what a gate gave for a batch: a tensor of shape (images, channels, ...).

        A network may give it more images than it was shown, several views of each: they count, but to no class.
        """
        d = factors.detach().flatten(1).cpu().double() - 1
        shown = self._shown if self._shown is not None and len(self._shown) == len(factors) else None
        sums = GateSums.of(gate, d, factors.shape[1], shown)
        before = self._sums.get(gate)
        if before is not None and before.total.shape != sums.total.shape:
            before, sums = before.over_places(), sums.over_places()
        self._sums[gate] = sums if before is None else before.plus(sums)

    def sums(self) -> tuple[GateSums, ...]:
        """One a gate that ran, in the order in which they did."""
        return tuple(self._sums.values())

    def movements(self) -> tuple[GateMovement, ...]:
        """What they come to, likewise."""
        return tuple(sums.movement() for sums in self._sums.values())


@contextlib.contextmanager
def watching_gates(model: nn.Module, classes: int = 0) -> Iterator[GateWatch]:
    """Watch the inserted blocks of ``model`` during whatever it is run for, an evaluation for example.

    The hooks that do it are gone afterwards. ``classes`` are those of :class:`GateWatch`.
    """
    watch = GateWatch(classes)
    hooks = []
    try:
        for gate, part in gates_of(model).items():
            hooks.append(part.gate.register_forward_hook(partial(_show, watch, gate, part)))
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
        batches: images of shape (N, C, H, W) and anything, as labels.
    """
    with watching_gates(model) as watch, evaluating(model), torch.no_grad():
        for images, _ in batches:
            model(as_input(images, model))
    return watch.movements()


def gates_of(model: nn.Module) -> dict[str, Scaling]:
    """The parts of inserted blocks that have a gate, by what the gate is called here."""
    from sesurgeon.surgery import blocks_of

    found = {}
    for path, block in blocks_of(model).items():
        if isinstance(block, Block):
            names = {part: name for name, part in block.named_modules()}
            for part in block.scalings():
                found[f"{path}.{names[part]}".rstrip(".")] = part
    return found


def _show(watch: GateWatch, gate: str, part: Scaling, module: nn.Module, inputs: object, factors: Tensor) -> None:
    watch.see(gate, part.by_channel(factors))


@dataclass(frozen=True, eq=False)
class GateSums:
    """Sums over images of d = factor - 1, which is small where its square would drown in that of the factor.

    Attributes:
        gate: its name.
        images: how many were seen.
        channels: of the gate; each has the same number of factors, one a place.
        total: of d, for each factor, channel by channel, float64.
        squares: of d * d, likewise.
        distance: of |d|, over all factors.
        largest: of |d|.
        by_class: of d, mean over the places, by class: (classes, channels); None where classes were not told apart.
        of_class: how many images of each class were seen; likewise.
    """

    gate: str
    images: int
    channels: int
    total: Tensor
    squares: Tensor
    distance: float
    largest: float
    by_class: Tensor | None = None
    of_class: Tensor | None = None

    @classmethod
    def of(cls, gate: str, d: Tensor, channels: int, shown: Tensor | None = None) -> GateSums:
        """Of d of shape (images, factors); ``shown``, of shape (images, classes), tells the classes apart."""
        size = d.abs()
        by_class = None if shown is None else shown.T @ d.reshape(len(d), channels, -1).mean(2)
        of_class = None if shown is None else shown.sum(0)
        return cls(
            gate=gate,
            images=len(d),
            channels=channels,
            total=d.sum(0),
            squares=d.square().sum(0),
            distance=float(size.sum()),
            largest=float(size.max()),
            by_class=by_class,
            of_class=of_class,
        )

    def plus(self, other: GateSums) -> GateSums:
        """Both together."""
        return GateSums(
            gate=self.gate,
            images=self.images + other.images,
            channels=self.channels,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            distance=self.distance + other.distance,
            largest=float(torch.tensor([self.largest, other.largest], dtype=torch.float64).max()),  # NaN, if one is
            by_class=None if self.by_class is None or other.by_class is None else self.by_class + other.by_class,
            of_class=None if self.of_class is None or other.of_class is None else self.of_class + other.of_class,
        )

    def over_places(self) -> GateSums:
        """With one factor for each channel, whose sums are means over its places."""
        total, squares = (sums.reshape(self.channels, -1).mean(1) for sums in (self.total, self.squares))
        distance = self.distance * self.channels / len(self.total)
        return replace(self, total=total, squares=squares, distance=distance)

    def movement(self) -> GateMovement:
        """What they come to."""
        means = self.total / self.images
        return GateMovement(
            gate=self.gate,
            images=self.images,
            factors=len(means),
            mean=1 + float(means.mean()),
            image_spread=float(self.image_spreads().mean()),
            channel_spread=float(means.std(correction=0)),
            distance=self.distance / (self.images * len(means)),
            largest=self.largest,
        )

    def image_spreads(self) -> Tensor:
        """Standard deviation of each factor over the images, (factors,), float64."""
        return _deviation(self.total / self.images, self.squares / self.images)

    def channel_means(self) -> Tensor:
        """Mean factor of each channel over images and places, (channels,), float64."""
        return 1 + self._by_channel(self.total)

    def channel_spreads(self) -> Tensor:
        """Standard deviation of each channel's factor over images and places, (channels,), float64."""
        return _deviation(self._by_channel(self.total), self._by_channel(self.squares))

    def class_means(self) -> Tensor | None:
        """Mean factor of each class and channel, (classes, channels), NaN for a class without images."""
        if self.by_class is None or self.of_class is None:
            return None
        return 1 + self.by_class / self.of_class[:, None]

    @property
    def finite(self) -> bool:
        """Whether all factors were numbers."""
        return bool(self.total.isfinite().all())

    def _by_channel(self, sums: Tensor) -> Tensor:
        return sums.reshape(self.channels, -1).mean(1) / self.images


def _deviation(means: Tensor, squares: Tensor) -> Tensor:
    """The standard deviation, from the means of d and of d * d."""
    return (squares - means.square()).clamp(min=0).sqrt()
