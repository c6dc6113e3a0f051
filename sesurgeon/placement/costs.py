"""What a network, and a block at a site, cost: counted, not computed from a formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks import BlockConfig, build_block
from sesurgeon.graph import Site
from sesurgeon.models import fresh, isolated
from sesurgeon.modules import parameter_count
from sesurgeon.placement.attributes import inserted
from sesurgeon.placement.counting import Counted, count_operations


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds (MACs) of one image's forward pass.

    A network's own pooling and products are not counted, as in the field's tables; those of our blocks are. Pooling
    adds and scaling multiplies: one of each makes a multiply-add, by which the paper's Tables 2 and 3 are met.

    Attributes:
        parameters: trainable or not, buffers not included.
        layers: multiply-adds of convolutions, linear layers and matrix products.
        pooling: additions of the blocks: one for each element that a mean, a maximum or a sum reads.
        scaling: multiplications of the blocks: one for each element that a gate multiplies.
        uncounted: names of the operations whose multiply-adds are in none of these numbers: libraries' own
            (``torchvision.deform_conv2d``), and those of PyTorch that its FLOP counter does not know (an LSTM).
    """

    parameters: int
    layers: int
    pooling: int
    scaling: int
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """All multiply-adds: those of the layers, and a half for each addition and each multiplication."""
        return self.layers + (self.pooling + self.scaling) // 2

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.layers + other.layers,
            self.pooling + other.pooling,
            self.scaling + other.scaling,
            tuple(sorted({*self.uncounted, *other.uncounted})),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ``macs`` among them."""
        return {**asdict(self), "macs": self.macs}


def model_cost(model: nn.Module, inputs: tuple[Any, ...]) -> Cost:
    """The cost of ``model`` in eval mode, for one of the images in ``inputs``; the model is left as it was.

    Args:
        model: with or without inserted blocks, whose pooling and scaling are counted.
        inputs: positional arguments of its forward.
    """
    blocks = [getattr(module, name) for module in model.modules() for name in inserted(module)]
    with isolated(model, training=False):
        counted = count_operations(lambda: model(*fresh(inputs)), blocks)
    return _cost(model, [(counted, 1)], images_in(inputs))


def block_cost(config: BlockConfig, site: Site, images: int | None = None) -> Cost:
    """The cost of one block at ``site``, for one image, counted on meta tensors.

    Args:
        config: the block.
        site: where it goes; a block that runs several times, on maps of whatever sizes, has its parameters once.
        images: in the batch on which the site was found. By default as many as the site's tensor has; fewer where
            the network folds frames or windows into the batch.
    """
    with torch.device("meta"), torch.no_grad():
        block = build_block(config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
        block.eval()
        runs = [
            (count_operations(partial(block, torch.empty(shape)), [block]), times)
            for shape, times in Counter(site.shapes).items()
        ]
    return _cost(block, runs, images or site.shape[0])


def images_in(inputs: Sequence[Any]) -> int:
    """How many images the first tensor, or list of tensors, among ``inputs`` holds; 1 where there is none."""
    batches = (argument for argument in inputs if isinstance(argument, list) or _is_batch(argument))
    return next((len(batch) for batch in batches if len(batch)), 1)


def _is_batch(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.ndim > 0


def _cost(module: nn.Module, runs: Sequence[tuple[Counted, int]], images: int) -> Cost:
    """The cost of ``module`` for one image, from what was counted and how often each of that runs."""
    return Cost(
        parameter_count(module),
        sum(counted.layers * times for counted, times in runs) // images,
        sum(counted.pooling * times for counted, times in runs) // images,
        sum(counted.scaling * times for counted, times in runs) // images,
        tuple(sorted({name for counted, _ in runs for name in counted.uncounted})),
    )
