"""The hidden units of fresh blocks start where they tell the training images apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Block, UnitSums, is_asleep, standardise_
from sesurgeon.finetune.data.loader import read
from sesurgeon.finetune.data.updates import UpdateSampler
from sesurgeon.finetune.scoring.outputs import as_input, evaluating
from sesurgeon.finetune.training.engine import from_all

if TYPE_CHECKING:
    from accelerate import Accelerator

_IMAGES = 512  # a mean over so many is off by 4 % of the deviation


@dataclass(frozen=True)
class Calibration:
    """Which blocks were calibrated, and on how much.

    Attributes:
        blocks: paths of those that were.
        left: paths of the inserted blocks that were not, with what they have that is against it.
        images: training images that were looked at, over all processes.
    """

    blocks: tuple[str, ...]
    left: Mapping[str, str]
    images: int

    def __str__(self) -> str:
        """In sentences."""
        said = []
        if self.blocks:
            which = ", ".join(self.blocks) if self.left or len(self.blocks) == 1 else f"all {len(self.blocks)} blocks"
            said.append(f"The hidden units of {which} were calibrated on {self.images:,} training images.")
        for reason in dict.fromkeys(self.left.values()):
            paths = ", ".join(path for path, why in self.left.items() if why == reason)
            said.append(f"Not calibrated: {paths}, {reason}.")
        return " ".join(said)


def calibrate(model: nn.Module, batches: Any, updates: UpdateSampler, accelerator: Accelerator) -> Calibration:
    """Give the hidden units of fresh blocks zero mean and unit variance over the first batches of training, in place.

    The outputs of ``model`` stay what they are: nothing follows those units but a layer of zeros. The images are
    those that training begins with, as it sees them; nothing random is drawn. All processes must call this together,
    and get the same weights.

    Args:
        model: a network with inserted blocks; blocks that were trained are left alone.
        batches: a loader of the training images, in the order of ``updates``.
        updates: of this process.
        accelerator: the machine.

    Raises:
        DataError: an image cannot be read.
    """
    from sesurgeon.surgery import blocks_of

    inserted = blocks_of(model)
    left = {path: reason for path, block in inserted.items() if (reason := _reason_against(block)) is not None}
    blocks = {path: block for path, block in inserted.items() if isinstance(block, Block) and path not in left}
    if not blocks:
        return Calibration((), left, 0)
    updates.start(0)
    a_step = updates.shape.batch_size * updates.shape.processes
    own, images = _sums_over(model, blocks, islice(read(batches), -(-_IMAGES // a_step)))
    per_process = from_all(accelerator, (images, own))
    for path, block in blocks.items():
        layers = block.hidden()
        seen = [sums[path] for _, sums in per_process if path in sums]
        if layers is not None and seen:
            standardise_(layers[0], reduce(UnitSums.plus, seen))
    return Calibration(tuple(blocks), left, sum(images for images, _ in per_process))


def _reason_against(block: nn.Module) -> str | None:
    if not isinstance(block, Block) or block.hidden() is None:
        return "which has no hidden units with a bias"
    return None if is_asleep(block) else "which was trained already or does not start as an identity"


def _sums_over(
    model: nn.Module, blocks: Mapping[str, Block], batches: Iterable[tuple[Tensor, Any]]
) -> tuple[dict[str, UnitSums], int]:
    """Sums over the hidden units of each block, and how many images were seen."""
    images = 0
    with _watching(blocks) as sums, evaluating(model), torch.no_grad():
        for batch, _ in batches:
            images += len(batch)
            model(as_input(batch, model))
    return sums, images


@contextlib.contextmanager
def _watching(blocks: Mapping[str, Block]) -> Iterator[dict[str, UnitSums]]:
    sums: dict[str, UnitSums] = {}
    hooks = []
    try:
        for path, block in blocks.items():
            layers = block.hidden()
            if layers is not None:
                hooks.append(layers[0].register_forward_hook(partial(_see, sums, path)))
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _see(sums: dict[str, UnitSums], path: str, layer: nn.Module, inputs: object, values: Tensor) -> None:
    seen = UnitSums.of(values)
    sums[path] = sums[path].plus(seen) if path in sums else seen
