"""Where in an augmented network the time of its blocks goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from sesurgeon.export.cost.latency import Runner, clock_of, in_torch, with_images
from sesurgeon.models import fresh
from sesurgeon.placement import images_in
from sesurgeon.surgery import blocks_of

_WARM_UP = 3


@dataclass(frozen=True)
class BlockShare:
    """One block in a pass through the network.

    Attributes:
        block: its path.
        batch: images in the pass.
        ms: the median of its milliseconds a pass, in which it may be called several times.
        share: of the milliseconds of the whole pass, from 0 to 1.
    """

    block: str
    batch: int
    ms: float
    share: float


def block_shares(
    model: nn.Module, arguments: tuple[Any, ...], *, batch: int | None = None, repeats: int = 20
) -> list[BlockShare]:
    """Time each inserted block within passes of ``model`` in eval mode, where it is; the model is left as it was.

    Args:
        model: with blocks; without any the list is empty.
        arguments: the positional arguments of forward.
        batch: images of a pass; as many as ``arguments`` have by default.
        repeats: passes that are timed.
    """
    blocks = blocks_of(model)
    batch = batch or images_in(arguments)
    arguments = with_images(arguments, batch)
    clock = clock_of(model)
    seconds = dict.fromkeys(blocks, 0.0)  # of one pass
    began: dict[str, float] = {}

    def start(path: str, *_: object) -> None:
        began[path] = clock()

    def stop(path: str, *_: object) -> None:
        seconds[path] += clock() - began[path]

    handles, whole, parts = [], [], []
    for path, block in blocks.items():
        handles.append(block.register_forward_pre_hook(partial(start, path)))
        handles.append(block.register_forward_hook(partial(stop, path)))
    try:
        with in_torch(model, arguments) as run:
            for _ in range(_WARM_UP + repeats):
                seconds.update(dict.fromkeys(blocks, 0.0))
                whole.append(_timed(run, arguments, clock))
                parts.append(dict(seconds))
    finally:
        for handle in handles:
            handle.remove()
    total = median(whole[_WARM_UP:])
    medians = {path: median(part[path] for part in parts[_WARM_UP:]) for path in blocks}
    return [BlockShare(path, batch, 1000 * one, one / total) for path, one in medians.items()]


def _timed(run: Runner, arguments: tuple[Any, ...], clock: Callable[[], float]) -> float:
    given = fresh(arguments)
    began = clock()
    run(given)
    return clock() - began
