"""How much of an augmented network's time each of its blocks takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from sesurgeon.export.cost.runtimes import clock_of, in_torch, seconds, with_images
from sesurgeon.placement import images_in
from sesurgeon.surgery import blocks_of

_WARM_UP = 3


@dataclass(frozen=True)
class BlockShare:
    """One block in a forward pass of the network.

    Attributes:
        block: its path.
        batch: images in the pass.
        ms: median milliseconds per pass, over all calls of the block in it.
        share: of the milliseconds of the whole pass, from 0 to 1.
    """

    block: str
    batch: int
    ms: float
    share: float


def block_shares(
    model: nn.Module, arguments: tuple[Any, ...], *, batch: int | None = None, repeats: int = 20
) -> list[BlockShare]:
    """Time each inserted block within forward passes of ``model``, in eval mode and on its device.

    Args:
        model: with blocks (without any, the list is empty); it is left as it was.
        arguments: the positional arguments of forward.
        batch: images per pass; by default as many as ``arguments`` have.
        repeats: passes that are timed.
    """
    blocks = blocks_of(model)
    batch = batch or images_in(arguments)
    arguments = with_images(arguments, batch)
    clock = clock_of(model)
    within = dict.fromkeys(blocks, 0.0)  # seconds of one pass
    began: dict[str, float] = {}

    def start(path: str, *_: object) -> None:
        began[path] = clock()

    def stop(path: str, *_: object) -> None:
        within[path] += clock() - began[path]

    handles, whole, parts = [], [], []
    for path, block in blocks.items():
        handles.append(block.register_forward_pre_hook(partial(start, path)))
        handles.append(block.register_forward_hook(partial(stop, path)))
    try:
        with in_torch(model, arguments) as run:
            for _ in range(_WARM_UP + repeats):
                within.update(dict.fromkeys(blocks, 0.0))
                whole.append(seconds(run, arguments, clock))
                parts.append(dict(within))
    finally:
        for handle in handles:
            handle.remove()
    total = median(whole[_WARM_UP:])
    medians = {path: median(part[path] for part in parts[_WARM_UP:]) for path in blocks}
    return [BlockShare(path, batch, 1000 * one, one / total) for path, one in medians.items()]
