"""Watching the gates of inserted blocks while the network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.blocks import Block, Scaling, ceiling_of
from sesurgeon.finetune.scoring.forward import as_input, evaluating, watching
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.gatesums import GateSums


class GateWatch:
    """Sums up what gates give.

    Args:
        classes: the number of classes, for sums by class; see :meth:`set_labels`.
    """

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes
        self._sums: dict[str, GateSums] = {}
        self._labels: Tensor | None = None

    def set_labels(self, labels: Tensor) -> None:
        """Set the classes of the images of the next pass: indices (N,), or ones and zeros (N, classes)."""
        labels = labels if labels.ndim == 2 else F.one_hot(labels, self.classes)
        self._labels = labels.cpu().double()

    def see(self, gate: str, factors: Tensor) -> None:
        """Add what a gate gave for a batch: a tensor of shape (images, channels, ...).

        If a network gives the gate more images than there are labels, as several views of each, they count for no
        class.
        """
        d = factors.detach().flatten(1).cpu().double() - 1
        labels = self._labels if self._labels is not None and len(self._labels) == len(factors) else None
        sums = GateSums.of(gate, d, factors.shape[1], labels)
        before = self._sums.get(gate)
        if before is not None and before.total.shape != sums.total.shape:
            before, sums = before.averaged_over_places(), sums.averaged_over_places()
        self._sums[gate] = sums if before is None else before.plus(sums)

    def sums(self) -> tuple[GateSums, ...]:
        """One per gate that ran, in the order in which they ran."""
        return tuple(self._sums.values())


@contextlib.contextmanager
def watching_gates(model: nn.Module, classes: int = 0) -> Iterator[GateWatch]:
    """Watch the inserted blocks of ``model`` while it runs, for an evaluation for example.

    The hooks are removed at the end. ``classes`` are those of :class:`GateWatch`.
    """
    watch, parts = GateWatch(classes), gates_of(model)

    def see(gate: str, factors: Tensor) -> None:
        watch.see(gate, parts[gate].by_channel(factors))

    with watching({gate: part.gate for gate, part in parts.items()}, see):
        yield watch


def watch_gates(model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> tuple[GateStatistics, ...]:
    """Run ``model`` in eval mode over images and return the statistics of the gates of its inserted blocks.

    Its train and eval modes are left as they were, and no hook stays. A few hundred images are enough:
    ``itertools.islice(loader, 8)``.

    Args:
        model: a network with inserted blocks; without any, the result is empty.
        batches: images of shape (N, C, H, W), and labels, which are not used.
    """
    with watching_gates(model) as watch, evaluating(model), torch.no_grad():
        for images, _ in batches:
            model(as_input(images, model))
    return statistics_of(model, watch.sums())


def statistics_of(model: nn.Module, sums: Iterable[GateSums]) -> tuple[GateStatistics, ...]:
    """The statistics of gates of ``model``."""
    parts = gates_of(model)
    return tuple(GateStatistics.of(one, ceiling_of(parts[one.gate].gate)) for one in sums)


def gates_of(model: nn.Module) -> dict[str, Scaling]:
    """The parts of inserted blocks that have a gate, by the gate's name."""
    from sesurgeon.surgery import blocks_of

    found = {}
    for path, block in blocks_of(model).items():
        if isinstance(block, Block):
            names = {part: name for name, part in block.named_modules()}
            for part in block.scalings():
                found[f"{path}.{names[part]}".rstrip(".")] = part
    return found
