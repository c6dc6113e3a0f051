"""Calibration: scale the hidden layer of fresh blocks so that each unit has mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Block, UnitSums, is_asleep, standardise_
from sesurgeon.blocks.layout import Convolution
from sesurgeon.finetune.data.readers import read
from sesurgeon.finetune.data.sampler import UpdateSampler
from sesurgeon.finetune.scoring.forward import as_input, evaluating, watching
from sesurgeon.finetune.training.processes import from_all

_IMAGES = 512  # the standard error of a mean over so many is 4 % of the deviation


@dataclass(frozen=True)
class Calibration:
    """Which blocks were calibrated, and on how many images.

    Attributes:
        blocks: paths of the blocks that were calibrated.
        left: paths of the inserted blocks that were not, each with the reason.
        images: training images that were seen, over all processes.
    """

    blocks: tuple[str, ...]
    left: Mapping[str, str]
    images: int

    def __str__(self) -> str:
        """For people, in sentences."""
        said = []
        if self.blocks:
            which = ", ".join(self.blocks) if self.left or len(self.blocks) == 1 else f"all {len(self.blocks)} blocks"
            said.append(f"The hidden units of {which} were calibrated on {self.images:,} training images.")
        for reason in dict.fromkeys(self.left.values()):
            paths = ", ".join(path for path, why in self.left.items() if why == reason)
            said.append(f"Not calibrated: {paths}, {reason}.")
        return " ".join(said)


def calibrate(model: nn.Module, batches: Any, updates: UpdateSampler) -> Calibration:
    """Give the hidden units of fresh blocks mean 0 and variance 1 over the first batches of training, in place.

    The outputs of ``model`` stay the same: behind those units there is only a layer of zeros. The images are those that
    training begins with, augmented as it will see them; no random numbers are drawn. All processes must call this
    together, and get the same weights.

    Args:
        model: a network with inserted blocks; blocks that were trained are left alone.
        batches: a loader of the training images, in the order of ``updates``.
        updates: of this process.

    Raises:
        DataError: an image cannot be read.
    """
    from sesurgeon.surgery import blocks_of

    layers, left = _hidden_layers(blocks_of(model))
    if not layers:
        return Calibration((), left, 0)
    updates.start(0)
    a_step = updates.size.batch_size * updates.size.processes
    per_process = from_all(_sums_over(model, layers, islice(read(batches), -(-_IMAGES // a_step))))
    for path, layer in layers.items():
        seen = [sums[path] for sums, _ in per_process if path in sums]
        if seen:
            standardise_(layer, reduce(UnitSums.plus, seen))
    return Calibration(tuple(layers), left, sum(images for _, images in per_process))


def _hidden_layers(inserted: Mapping[str, nn.Module]) -> tuple[dict[str, Convolution], dict[str, str]]:
    """The layers before the hidden units of fresh blocks, by path; and why the other blocks are left, by path."""
    layers, left = dict[str, Convolution](), dict[str, str]()
    for path, block in inserted.items():
        if not isinstance(block, Block) or (hidden := block.hidden()) is None:
            left[path] = "which has no hidden units with a bias"
        elif not is_asleep(block):
            left[path] = "which was trained already or does not start as an identity"
        else:
            layers[path] = hidden[0]
    return layers, left


def _sums_over(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Any]]
) -> tuple[dict[str, UnitSums], int]:
    """Sums over the outputs of each of ``layers``, and how many images were seen."""
    sums, images = dict[str, UnitSums](), 0

    def see(path: str, values: Tensor) -> None:
        seen = UnitSums.of(values)
        sums[path] = sums[path].plus(seen) if path in sums else seen

    with watching(layers, see), evaluating(model), torch.no_grad():
        for batch, _ in batches:
            images += len(batch)
            model(as_input(batch, model))
    return sums, images
