"""The sizes and costs in the SE paper (https://arxiv.org/abs/1709.01507, version 4), counted on today's networks.

    python benchmarks/paper.py

Needs no data, no weights and no network; about a minute on one core. Writes benchmarks/paper.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from sesurgeon.files import atomic_write
from sesurgeon.graph import Survey, survey
from sesurgeon.placement import Choices, Cost, block_cost, model_cost, plan_from_survey, settle

TABLE = Path(__file__).with_suffix(".md")
# The paper's blocks have no biases (section 4), and widths that are not rounded to multiples of 8.
PAPERS: Choices = {"rd_divisor": 1, "bias": False}

# Number of blocks and output channels of ResNet-50's stages 2 to 5.
RESNET50_STAGES = ((3, 256), (4, 512), (6, 1024), (3, 2048))
# Section 6.1: reduction ratio -> millions of parameters of SE-ResNet-50.
RATIOS = {2: 45.7, 4: 35.7, 8: 30.7, 16: 28.1, 32: 26.9}
# Section 6.5: policy -> top-1 error of SE-ResNet-50 in %.
PLACEMENTS = {"standard": 22.28, "pre": 22.23, "post": 22.78, "identity": 22.20, "inner": 22.48}


@dataclass(frozen=True)
class Network:
    """A row of the paper's Tables 2 and 3.

    Attributes:
        name: in timm.
        base, augmented: multiply-adds in units of ``unit``, without and with SE.
        unit, digits: what the paper counts in, and to how many digits after the point.
    """

    name: str
    base: float
    augmented: float
    unit: float = 1e9
    digits: int = 2

    @property
    def difference(self) -> float:
        """What SE adds. The two numbers are rounded, so that it is true to one unit of the last digit."""
        return round(self.augmented - self.base, self.digits)


NETWORKS = (
    Network("resnet50", 3.86, 3.87),
    Network("resnet101", 7.58, 7.60),
    Network("resnet152", 11.30, 11.32),
    Network("resnext50_32x4d", 4.24, 4.25),
    Network("vgg16_bn", 15.47, 15.48),
    Network("mobilenetv1_100", 569, 572, unit=1e6, digits=0),
)


@dataclass(frozen=True)
class Count:
    """What was counted for a row.

    Attributes:
        today: timm's network.
        then: the same as the paper had it: its ResNets halve the image in a block's first convolution of 1x1, today's
            in the 3x3.
        sums: elements of the sums of branch and shortcut, which are no multiply-adds and in neither of these.
        added: all SE blocks.
    """

    today: Cost
    then: Cost
    sums: int
    added: Cost


def found_in(name: str) -> Survey:
    """The sites of a network of timm's, for an image of 224 x 224."""
    return survey(timm.create_model(name), torch.zeros(1, 3, 224, 224))


def added(found: Survey, **choices: object) -> Cost:
    """What the blocks of a plan cost: the paper's at r = 16, unless ``choices`` say otherwise."""
    policies, config, filters = settle({**PAPERS, **choices})  # type: ignore[typeddict-item]
    plan = plan_from_survey(found, policies, config, filters)
    return sum((block_cost(entry.config, found.site(entry.site)) for entry in plan.entries), Cost(0, 0, 0, 0))


def formula(ratio: int) -> int:
    """The parameters of SE-ResNet-50's blocks by section 4: ``2/r * sum over the stages of N_s * C_s ** 2``."""
    return 2 * sum(blocks * channels**2 for blocks, channels in RESNET50_STAGES) // ratio


def count(network: Network, found: Survey) -> Count:
    """Count a network without and with SE."""
    cost = added(found)
    today = then = model_cost(found.model, found.inputs)
    if network.name.startswith("resnet"):
        with stride_in_the_1x1(found.model):
            then = model_cost(found.model, found.inputs)
    sums = cost.pooling if network.name.startswith("res") else 0  # SE pools each branch, and each branch is summed
    return Count(today, then, sums, cost)


@contextlib.contextmanager
def stride_in_the_1x1(resnet: nn.Module) -> Iterator[None]:
    """Have the first convolution of a block halve the image, for a while."""
    blocks = [module for module in resnet.modules() if hasattr(module, "conv3") and module.conv2.stride == (2, 2)]
    for block in blocks:
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    try:
        yield
    finally:
        for block in blocks:
            block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)


def document() -> str:
    """The whole of paper.md."""
    found = found_in("resnet50")
    rows = [(network, count(network, found_in(network.name))) for network in NETWORKS]
    tables = (ratio_table(found), placement_table(found), total_table(rows), added_table(rows))
    return _TEXT.format(
        *("\n".join(table) for table in tables), biased=added(found, rd_divisor=8, bias=True).parameters
    )


def ratio_table(found: Survey) -> Iterator[str]:
    """SE-ResNet-50 by reduction ratio."""
    yield "| r | parameters added | by the formula | in all | in the paper |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for ratio, papers in RATIOS.items():
        extra = added(found, rd_ratio=1 / ratio).parameters
        yield f"| {ratio} | {extra:,} | {formula(ratio):,} | {_in_all(found, extra)} | {papers} M |"


def placement_table(found: Survey) -> Iterator[str]:
    """SE-ResNet-50 by policy."""
    yield "| blocks | parameters added | in all | layers' MACs | additions | products | top-1 error in the paper |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for policy, error in PLACEMENTS.items():
        yield f"{_placement(found, f'`{policy}`', added(found, policy=policy))} {error:.2f} % |"
    yield f"{_placement(found, '`standard --skip-last-stage`', added(found, skip_last_stage=True))} |"


def total_table(rows: list[tuple[Network, Count]]) -> Iterator[str]:
    """Networks without SE."""
    yield "| network in timm | MACs | stride in the 1x1 | and the sums | in the paper |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for network, found in rows:
        macs = (found.today.macs, found.then.macs, found.then.macs + found.sums, network.base * network.unit)
        yield f"| `{network.name}` | {' | '.join(_in_unit(network, number) for number in macs)} |"


def added_table(rows: list[tuple[Network, Count]]) -> Iterator[str]:
    """What SE adds to them."""
    yield "| network in timm | parameters | layers' MACs | additions | products | MACs in all | in the paper |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for network, found in rows:
        cost = found.added
        macs = (cost.layers, cost.pooling, cost.scaling, cost.macs)
        papers = _in_unit(network, network.difference * network.unit)
        numbers = " | ".join(f"{number / 1e6:.2f} M" for number in macs)
        yield f"| `{network.name}` | {cost.parameters:,} | {numbers} | {papers} |"


def _placement(found: Survey, name: str, cost: Cost) -> str:
    macs = " | ".join(f"{number:,}" for number in (cost.layers, cost.pooling, cost.scaling))
    return f"| {name} | {cost.parameters:,} | {_in_all(found, cost.parameters)} | {macs} |"


def _in_all(found: Survey, extra: int) -> str:
    own = sum(parameter.numel() for parameter in found.model.parameters())
    return f"{(own + extra) / 1e6:.2f} M"


def _in_unit(network: Network, number: float) -> str:
    return f"{number / network.unit:.{network.digits}f} {'G' if network.unit == 1e9 else 'M'}"


_TEXT = """# The paper's sizes and costs, counted

    python benchmarks/paper.py

[Squeeze-and-Excitation Networks](https://arxiv.org/abs/1709.01507), version 4, beside what sesurgeon counts when it
plans blocks for timm's networks: the parameters of the blocks that it would insert, and the multiply-adds (MACs) of the
operations that run on an image of 224 x 224. The blocks are the paper's (`rd_divisor=1, bias=False`, r = 16) unless a
row says otherwise. `tests/placement/test_paper.py` holds these numbers.

## SE-ResNet-50 by reduction ratio (section 6.1)

{}

The added parameters equal the formula of section 4, 2/r times the sum of N C^2 over the stages, exactly; the paper's
totals for r = 4, 8 and 32 are about 0.1 M above it. With biases and rounded widths, as in timm's `seresnet50`, they are
{biased:,} at r = 16.

## SE-ResNet-50 by place (section 6.5)

{}

The paper has 23.30 % without SE, and 25.8 M parameters for `inner`, its SE_3x3.

## Networks without SE (Tables 2 and 3)

{}

Today's ResNets halve the image in the 3x3 convolution of a block, the paper's did in the 1x1 before it: 4.09 G and
3.86 G. Its totals seem to count the sums of branch and shortcut too, one for each element: with them all residual
networks agree to the last digit. sesurgeon counts convolutions, linear layers and matrix products of a network, as is
usual.

## What SE adds to them (Tables 2 and 3)

{}

The paper's column is the difference of two rounded totals, true to one unit of the last digit. Pooling adds and scaling
multiplies, once for each element, and one of each makes a multiply-add: so counted, all six agree with the paper.

MobileNet has SE after each of its 13 pointwise convolutions (policy `standard`, or `--policy conv --kernel 1`). Its
479,744 parameters are the step from 4.2 M to 4.7 M in the paper's Table 3.
"""


if __name__ == "__main__":
    text = document()
    with atomic_write(TABLE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
