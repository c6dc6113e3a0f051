"""Which blocks are constant, and which constants could replace them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sesurgeon.finetune.scoring.gatesums import GateSums
from sesurgeon.surgery import blocks_of


@dataclass(frozen=True, eq=False)
class PrunableBlock:
    """What one block did on some images.

    Attributes:
        block: its path.
        spread: standard deviation of its factors over images and places, of the channel that varies most: a gate may
            distinguish a class by a single channel.
        constants: mean factor of each channel, (channels,), float64; of two gates, the product.
        distance: maximum of |factor - 1|; of two gates, the larger one.
    """

    block: str
    spread: float
    constants: Tensor
    distance: float

    @property
    def is_open(self) -> bool:
        """Was every factor exactly 1?"""
        return self.distance == 0

    def opened(self) -> PrunableBlock:
        """With 1 for all constants."""
        return replace(self, constants=torch.ones_like(self.constants))


def prunable_blocks(model: nn.Module, sums: Iterable[GateSums]) -> list[PrunableBlock]:
    """The blocks of ``model`` that ran, those that vary least first; of equal ones, in the order of the modules.

    Args:
        model: the network that was watched.
        sums: of its gates.
    """
    by_block: dict[str, list[GateSums]] = {path: [] for path in blocks_of(model)}
    for one in sums:
        owner = one.gate if one.gate in by_block else one.gate.rpartition(".")[0]
        by_block[owner].append(one)
    found = [_candidate(path, parts) for path, parts in by_block.items() if parts]
    return sorted(found, key=lambda candidate: candidate.spread)


def _candidate(path: str, parts: list[GateSums]) -> PrunableBlock:
    constants = torch.ones(1, dtype=torch.float64)  # a gate of one channel scales all of them
    for part in parts:
        constants = constants * part.channel_means()
    spread = max(float(part.channel_spreads().max()) for part in parts)
    return PrunableBlock(path, spread, constants, max(float(part.largest) for part in parts))
