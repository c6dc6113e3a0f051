"""A training step of SE-ResNet-50 over one of ResNet-50: sesurgeon's blocks against timm's, in time and in memory.

    python benchmarks/step.py

timm's `resnet50`, the same with sesurgeon's blocks (policy `standard`, which puts them where timm has them), and timm's
`seresnet50`: forward, loss, backward and an SGD step on random images. In each round each network has a turn, in a new
process: where memory happens to lie makes one process some per cent slower than the next for as long as it lives, and
processes that take turns lose caches and memory to each other, which in training they would not. A turn is some steps
that do not count, then some that do, of which the median counts. Overheads are taken round by round. Memory is the most
bytes that tensors take at a time in a step, above weights and the optimiser's state (sesurgeon.export.measure_memory).
Writes benchmarks/step.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

import sesurgeon
from sesurgeon.export import measure_memory
from sesurgeon.files import atomic_write

TABLE = Path(__file__).with_suffix(".md")
NETWORKS = ("resnet50", "ours", "timm's")
WARM_UP, STEPS = 3, 5  # of a turn: steps that do not count, and steps that do


def main() -> None:
    options = parse()
    seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for number in range(options.rounds):
            for name in random.Random(number).sample(NETWORKS, len(NETWORKS)):
                seconds[name].append(processes.apply(turn, (name, options)))
            print({name: round(1000 * found[-1]) for name, found in seconds.items()}, flush=True)
    memory = peaks(options)
    with atomic_write(TABLE) as temporary:
        temporary.write_text(page(options, seconds, memory), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-b", "--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--channels-last", action="store_true")
    return parser.parse_args()


def turn(name: str, options: argparse.Namespace) -> float:
    """Seconds of a step."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    order = torch.channels_last if options.channels_last else torch.contiguous_format
    model = network(name, options.img_size).train().to(memory_format=order)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(options.batch_size, 3, options.img_size, options.img_size).to(memory_format=order)
    labels = torch.randint(1000, (options.batch_size,))

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return statistics.median([timed(step) for _ in range(WARM_UP + STEPS)][WARM_UP:])


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def network(name: str, side: int) -> nn.Module:
    if name == "timm's":
        return timm.create_model("seresnet50")
    model = timm.create_model("resnet50")
    return model if name == "resnet50" else sesurgeon.add_se(model, torch.randn(2, 3, side, side))


def peaks(options: argparse.Namespace) -> dict[str, int]:
    """Bytes of each network in a step."""
    side = options.img_size
    images, found = torch.randn(options.batch_size, 3, side, side), {}
    for name in NETWORKS[1:]:
        (one,) = measure_memory(
            network("resnet50", side), network(name, side), images, batch=len(images), runtimes=("training",)
        )
        found |= {"resnet50": one.base_bytes, name: one.augmented_bytes}
    return found


def page(options: argparse.Namespace, seconds: dict[str, list[float]], memory: dict[str, int]) -> str:
    base = seconds["resnet50"]
    over = {name: [b / a - 1 for a, b in zip(base, seconds[name], strict=True)] for name in NETWORKS[1:]}
    best = {name: min(seconds[name]) / min(base) - 1 for name in NETWORKS[1:]}
    rows = []
    for name in NETWORKS:
        cells = [name, f"{1000 * statistics.median(seconds[name]):.0f}"]
        cells.append("" if name == "resnet50" else spread([100 * one for one in over[name]], " %"))
        cells.append("" if name == "resnet50" else f"{100 * best[name]:.1f} %")
        cells.append(f"{memory[name] / 1e6:.0f}")
        cells.append("" if name == "resnet50" else f"{(memory[name] - memory['resnet50']) / 1e6:+.0f}")
        rows.append(f"| {' | '.join(cells)} |")
    space_share = (memory["ours"] - memory["resnet50"]) / (memory["timm's"] - memory["resnet50"])
    time_share = statistics.median(over["ours"]) / statistics.median(over["timm's"])
    order = " --channels-last" if options.channels_last else ""
    return f"""# A training step of SE-ResNet-50

    python benchmarks/step.py -b {options.batch_size} --img-size {options.img_size} --threads {options.threads} \\
        --rounds {options.rounds}{order}

timm {timm.__version__}, torch {torch.__version__}, {options.threads} CPU threads, fp32: medians of {options.rounds}
rounds, and from least to most. In each round each network has a turn, in a new process: {WARM_UP} steps that do not
count, and {STEPS} of which the median counts. Overheads are paired by round.

| network | step, ms | over resnet50 | quickest turns | peak, MB | over resnet50 |
| --- | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}

Our overhead is {time_share:.2f} of timm's by the medians, and {best["ours"] / best["timm's"]:.2f} by the quickest turn
of each; in memory it is {space_share:.3f} of it. The memory's floor is the tensors that the blocks scale,
{floor(options) / 1e6:.0f} MB in all: each gate's gradient needs its own, and in a network without blocks the sum is
written over it. Blocks have weights, too, and these gradients.

Aimed at are 0.6 of timm's overhead at most, and less than timm's memory. The peak is where the third stage's last block
is about to go back: of the thirteen blocks still to come both networks keep the tensor and its means; timm's keeps the
sigmoid beside them, ours a sixteenth of that, the hidden units.
"""


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def floor(options: argparse.Namespace) -> int:
    """Bytes of what the sixteen blocks scale."""
    side = options.img_size // 4
    stages = ((3, 256, 1), (4, 512, 2), (6, 1024, 4), (3, 2048, 8))
    return sum(4 * count * options.batch_size * channels * (side // by) ** 2 for count, channels, by in stages)


if __name__ == "__main__":
    main()
