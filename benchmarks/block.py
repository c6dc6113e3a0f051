"""One Squeeze-and-Excitation block, forward and backward: sesurgeon's against timm's, torchvision's and the textbook's.

    python benchmarks/block.py

All in one process, in turn, each round in another order; ratios are taken round by round. A turn is some runs that do
not count, then one that does, as in training, where the same sizes of memory are asked for again and again: the first
runs pay for what the module before left in the caches and in the memory's allocator. Beside them stands the floor that
the memory sets: seven passes (three forward, four backward) at the speed at which the same four tensors (input, output
and their gradients) are copied one into another in a turn of their own; and that floor with the six products of
matrices, which no block can do without, in another. Behind a BatchNorm, ours goes back together with it, as where
surgery puts it; there the time of the norm alone is taken off. Writes benchmarks/block.md; where the C library is told
to keep what is freed, so that the system hands out no new pages meanwhile, benchmarks/block_kept.md:

    MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_MMAP_THRESHOLD_=100000000000 python benchmarks/block.py
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import timm
import torch
import torchvision
from timm.layers.squeeze_excite import SqueezeExcite as TimmSqueezeExcite
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.blocks.kernel.behind_norm import scaled_result
from sesurgeon.files import atomic_write

SETTINGS = [f"{name}={value} " for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
TABLE = Path(__file__).with_name("block_kept.md" if SETTINGS else "block.md")
SHAPES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PEERS = ("timm", "torchvision", "textbook", "floor", "floor and products")
PASSES = 7
WARM_UP = 2  # runs of a turn that do not count


class Textbook(nn.Module):
    """As the paper draws it."""

    def __init__(self, channels: int, rd_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(channels, rd_channels), nn.Linear(rd_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.pool(x).flatten(1)
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))
        return x * gate[:, :, None, None].expand_as(x)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    lines, behind, ratios = list[str](), list[str](), dict[str, list[float]]()
    for order, memory_format in ORDERS.items():
        for channels, side in SHAPES:
            x = torch.randn(options.batch, channels, side, side).to(memory_format=memory_format)
            rounds = measured(x, options)
            cells = [f"{channels} @ {side}", order, f"{1000 * statistics.median(rounds['ours']):.1f}"]
            for peer in PEERS:
                shares = sorted(a / b for a, b in zip(rounds["ours"], rounds[peer], strict=True))
                cells.append(f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})")
                ratios.setdefault(f"{order}: {peer}", []).append(statistics.median(shares))
            lines.append(f"| {' | '.join(cells)} |")
            behind.append(f"| {channels} @ {side} | {order} | {' | '.join(behind_norm(rounds, ratios, order))} |")
            print(lines[-1], behind[-1], sep="\n", flush=True)
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(options, lines, behind, ratios), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


def measured(x: Tensor, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each, round by round."""
    channels = x.shape[1]
    narrow = channels // 16
    blocks: dict[str, nn.Module] = {
        "ours": SqueezeExcite(channels, narrow),
        "timm": TimmSqueezeExcite(channels, rd_channels=narrow),
        "torchvision": SqueezeExcitation(channels, narrow),
        "textbook": Textbook(channels, narrow),
    }
    norm = nn.BatchNorm2d(channels)
    leaf, seen, copies = x.clone().requires_grad_(), torch.randn_like(x), (torch.empty_like(x), torch.empty_like(x))
    runs: Mapping[str, Callable[[], object]] = {
        **{name: lambda block=block: block(leaf).backward(seen) for name, block in blocks.items()},
        "norm": lambda: norm(leaf).backward(seen),
        "norm, ours": lambda: scaled_result(norm, blocks["ours"], leaf).backward(seen),
        "norm, timm": lambda: blocks["timm"](norm(leaf)).backward(seen),
        "copies": lambda: (copies[0].copy_(x), copies[1].copy_(seen)),
        "products": products(len(x), channels, narrow),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds):
        for name in random.Random(number).sample(list(runs), len(runs)):
            for _ in range(WARM_UP + 1):
                leaf.grad = None
                began = time.perf_counter()
                runs[name]()
                seconds = time.perf_counter() - began
            found[name].append(seconds)
    # a copy reads a tensor and writes one: two passes
    floor = [PASSES / 4 * seconds for seconds in found["copies"]]
    return {
        **found,
        "floor": floor,
        "floor and products": [sum(one) for one in zip(floor, found["products"], strict=True)],
    }


def behind_norm(rounds: Mapping[str, list[float]], ratios: dict[str, list[float]], order: str) -> list[str]:
    """The norm's time, what ours and timm's add to it, ours relative to the floor, and the ratio of the whole."""
    norm, ours, theirs = (rounds[name] for name in ("norm", "norm, ours", "norm, timm"))
    added = [a - b for a, b in zip(ours, norm, strict=True)]
    more = [a - b for a, b in zip(theirs, norm, strict=True)]
    whole = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    passes = statistics.median(a / b for a, b in zip(added, rounds["floor"], strict=True))
    ratios.setdefault(f"{order}: behind a norm", []).append(whole)
    return [
        *(f"{1000 * statistics.median(one):.1f}" for one in (norm, added, more)),
        *(f"{one:.2f}" for one in (passes, whole)),
    ]


def products(batch: int, channels: int, narrow: int) -> Callable[[], object]:
    """Those of two layers: one each forward, and one each backward for what comes in and for the weights."""
    wide, few = torch.randn(batch, channels), torch.randn(batch, narrow)
    weight1, weight2 = torch.randn(narrow, channels), torch.randn(channels, narrow)
    return lambda: (
        wide @ weight1.t(), few @ weight2.t(), few @ weight1, wide @ weight2, few.t() @ wide, wide.t() @ few,
    )  # fmt: skip


def page(options: argparse.Namespace, lines: list[str], behind: list[str], ratios: Mapping[str, list[float]]) -> str:
    means = {name: f"{math.exp(statistics.fmean(map(math.log, found))):.2f}" for name, found in ratios.items()}
    summary = [f"| {order} | {' | '.join(means[f'{order}: {peer}'] for peer in PEERS)} |" for order in ORDERS]
    columns = " | ".join(f": {peer}" for peer in PEERS)
    rules = " | ".join("---:" for _ in PEERS)
    command = (
        f"python benchmarks/block.py --batch {options.batch} --threads {options.threads} --rounds {options.rounds}"
    )
    command = "".join(SETTINGS) + command
    together = ", ".join(f"{means[f'{order}: behind a norm']} {order}" for order in ORDERS)
    versions = f"timm {timm.__version__}, torchvision {torchvision.__version__}, torch {torch.__version__}"
    return f"""# One block, forward and backward

    {command}

sesurgeon's `SqueezeExcite` in fp32, {options.batch} images, {options.threads} CPU threads, reduction 16, against timm's
`SqueezeExcite`, torchvision's `SqueezeExcitation` and the textbook's module (pool, two Linear, sigmoid, expand,
multiply). The tables give our time in milliseconds and the ratio of our time to theirs: the median of {options.rounds}
rounds, with minimum and maximum. In each turn, {WARM_UP} runs warm up and one is timed. The floor is {PASSES} passes at
the speed at which the four tensors (input, output and their gradients) are copied into one another in the same round;
the last column adds the six matrix products of the two layers, measured separately. {versions}.

| C @ side | memory | ours, ms | {columns} |
| --- | --- | ---: | {rules} |
{chr(10).join(lines)}

Geometric means:

| memory | {columns} |
| --- | {rules} |
{chr(10).join(summary)}

## Behind a BatchNorm

There our block goes back together with the norm, and may even save more time than it takes. Medians: the milliseconds
of the norm alone, those that ours and timm's add to them, what ours adds relative to the floor above, and the ratio of
norm and ours to norm and timm's. Geometric means of that ratio: {together}.

| C @ side | memory | norm, ms | ours, + ms | timm's, + ms | ours, added : floor | whole, ours : timm's |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(behind)}
"""


if __name__ == "__main__":
    main()
